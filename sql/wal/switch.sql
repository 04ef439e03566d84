-- Ends the segment being written, so that it is archived.
-- Parameters: none. Result: its name (text). Privilege: EXECUTE on pg_switch_wal, by default superusers'. Versions: 14-18.
SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())
