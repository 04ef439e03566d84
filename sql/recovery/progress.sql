-- How far a recovery is, and whether it has come to its target.
-- Parameters: none. Result: recovering bool, paused text, replayed text (absent once promoted and restarted),
-- last_commit timestamptz. Privilege: none. Versions: 14-18.
SELECT r.recovering, CASE WHEN r.recovering THEN pg_catalog.pg_get_wal_replay_pause_state() ELSE '' END AS paused,
       pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text AS replayed,
       pg_catalog.pg_last_xact_replay_timestamp() AS last_commit
FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering) r
