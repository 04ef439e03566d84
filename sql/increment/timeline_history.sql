-- The history of the present timeline: where each timeline before it was left.
-- Parameters: $1 the name of the file (text). Result: its text, null when it is not there.
-- Privilege: EXECUTE on pg_read_file (superuser unless granted). Versions: 14-18.
SELECT pg_catalog.pg_read_file('pg_wal/' || $1::pg_catalog.text, 0, 1048576, true)
