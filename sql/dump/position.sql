-- Where the write-ahead log stands, and whose log it is.
-- Parameters: none. Result: lsn (text), timeline (int4), system_identifier (text).
-- Privilege: EXECUTE on pg_control_checkpoint and pg_control_system (PUBLIC has it unless revoked). Versions: 14-18.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
            ELSE pg_catalog.pg_current_wal_insert_lsn() END::pg_catalog.text,
       (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
       (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system())
