-- Where the write-ahead log stands, and the present snapshot.
-- Parameters: none. Result: lsn (text), snapshot (text). Privilege: none. Versions: 14-18.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn() END::pg_catalog.text,
       pg_catalog.pg_current_snapshot()::pg_catalog.text
