-- Whether this role may ask where the write-ahead log stands (managed services may refuse it).
-- Parameters: none. Result: one boolean. Privilege: none. Versions: 14-18.
SELECT pg_catalog.has_function_privilege('pg_catalog.pg_current_wal_insert_lsn()', 'EXECUTE')
