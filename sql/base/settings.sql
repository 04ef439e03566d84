-- What of the server's settings a base backup and a copy started from it depend on.
-- Parameters: none. Result: name text, setting text, in the unit that the setting is kept in. data_directory is there
-- only for who may see it. Privilege: none; pg_read_all_settings for data_directory. Versions: 14-18.
SELECT name, setting FROM pg_catalog.pg_settings WHERE name IN (
    'data_directory', 'wal_segment_size', 'block_size', 'segment_size', 'data_checksums', 'wal_level', 'archive_mode',
    'max_connections', 'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions',
    'max_locks_per_transaction', 'shared_preload_libraries')
