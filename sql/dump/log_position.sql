-- Where the write-ahead log stands; asked before a dump's transaction begins.
-- Parameters: none. Result: lsn (text; null on a standby). Privilege: none unless revoked. Versions: 14-18.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL ELSE pg_catalog.pg_current_wal_insert_lsn() END::pg_catalog.text
