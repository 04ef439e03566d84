-- Lets the server write a file of its own into its data directory: the snapshot of the transaction, below pg_snapshots.
-- Parameters: none. Result: name text, of the file; process int4, which the file names. The file is gone when the
-- transaction ends. Privilege: none. Versions: 14-18, on a standby too.
SELECT pg_catalog.pg_export_snapshot() AS name, pg_catalog.pg_backend_pid() AS process
