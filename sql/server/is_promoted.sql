-- Whether the server, which was a standby, is one no longer.
-- Parameters: none. Result: bool. Privilege: none. Versions: 14-18.
SELECT NOT pg_catalog.pg_is_in_recovery()
