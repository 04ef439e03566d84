-- Begins a base backup, not exclusive; the session must stay until it is stopped.
-- Parameters: $1 label (text), $2 whether to make the checkpoint at once (bool). Result: where it begins (text).
-- Privilege: EXECUTE on pg_start_backup(text, boolean, boolean). Versions: 14.
SELECT pg_catalog.pg_start_backup($1::pg_catalog.text, $2::pg_catalog.bool, false)::pg_catalog.text AS start
