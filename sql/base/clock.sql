-- The server's clock, on a standby no less than the primary's in what it has replayed.
-- Parameters: none. Result: now timestamptz. Privilege: none. Versions: 14-18.
SELECT GREATEST(pg_catalog.clock_timestamp(), pg_catalog.pg_last_xact_replay_timestamp()) AS now
