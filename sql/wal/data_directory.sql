-- The server's data directory; null where this role may not know it.
--
-- purpose     the segments that still lie in pg_wal, the room of its volume
-- parameters  none
-- columns     data_directory text
-- privilege   pg_read_all_settings, without which it is null
-- versions    PostgreSQL 14 to 18
SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory') AS data_directory
