-- The timeline a primary writes: the first eight digits of the name of its present WAL file.
--
-- purpose     source record of a manifest
-- parameters  none
-- columns     timeline int4
-- privilege   none; fails during recovery
-- versions    PostgreSQL 14 to 18
SELECT ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int4 AS timeline
