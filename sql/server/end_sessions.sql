-- Ends every other session of one database, so that it can be renamed.
-- Parameters: $1 database (text). Result: one row a session. Privilege: pg_signal_backend or the same role. Versions: 14-18.
SELECT pg_catalog.pg_terminate_backend(pid, 5000) FROM pg_catalog.pg_stat_activity
WHERE datname = $1::pg_catalog.text AND pid <> pg_catalog.pg_backend_pid()
