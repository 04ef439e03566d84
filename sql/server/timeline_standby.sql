-- The timeline a standby replays, as of its last restart point.
--
-- purpose     source record of a manifest
-- parameters  none
-- columns     timeline int4
-- privilege   EXECUTE on pg_control_checkpoint()
-- versions    PostgreSQL 14 to 18
SELECT timeline_id AS timeline FROM pg_control_checkpoint()
