-- Ends the session's base backup without waiting for the archive: we look into the repository ourselves.
-- Parameters: none. Result: lsn text, label text, map text, stopped timestamptz (the server's clock, after it).
-- Privilege: EXECUTE on pg_stop_backup(boolean, boolean). Versions: 14.
SELECT s.lsn::pg_catalog.text AS lsn, s.labelfile AS label, s.spcmapfile AS map, pg_catalog.clock_timestamp() AS stopped
FROM pg_catalog.pg_stop_backup(false, false) s
