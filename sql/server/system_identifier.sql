-- The identifier that initdb gave the cluster.
--
-- purpose     tells clusters apart that have the same names
-- parameters  none
-- columns     system_identifier int8, to be read as unsigned
-- privilege   EXECUTE on pg_control_system(), which some managed services keep to themselves
-- versions    PostgreSQL 14 to 18
SELECT system_identifier FROM pg_control_system()
