-- When the oldest of the server's log files was last written to; null when there is none.
-- Parameters: none. Result: oldest (timestamptz). Privilege: pg_monitor. Versions: 14-18.
SELECT min(modification) FROM pg_catalog.pg_ls_logdir()
