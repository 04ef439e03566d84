-- Whether the server keeps logs in files of its own, and since when there is a cluster (initdb's time is in its identifier:
-- PostgreSQL, src/backend/access/transam/xlog.c, BootStrapXLOG).
-- Parameters: none. Result: collects (bool), made (timestamptz). Privilege: EXECUTE on pg_control_system(). Versions: 14-18.
SELECT pg_catalog.current_setting('logging_collector')::pg_catalog.bool,
    pg_catalog.to_timestamp((s.system_identifier >> 32) & 4294967295)
FROM pg_catalog.pg_control_system() s
