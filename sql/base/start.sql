-- Begins a base backup; the session must stay until it is stopped.
-- Parameters: $1 label (text), $2 whether to make the checkpoint at once (bool). Result: where it begins (text).
-- Privilege: EXECUTE on pg_backup_start(text, boolean). Versions: 15-18; sql/base-14 for 14.
SELECT pg_catalog.pg_backup_start($1::pg_catalog.text, $2::pg_catalog.bool)::pg_catalog.text AS start
