-- What the checklist asks of a table: its columns, row-level security, and enabled triggers that are audit triggers by their
-- name or function's. Without a schema, that of public, or else any of its name outside of PostgreSQL's own schemas.
-- Parameters: $1 schema (text, may be null), $2 name (text). Result: columns (text[]), row_level_security (bool),
-- audit_triggers (int8); no row when there is no such table. Privilege: none. Versions: 14-18.
SELECT ARRAY(
        SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    c.relrowsecurity,
    (SELECT pg_catalog.count(*) FROM pg_catalog.pg_trigger t
     JOIN pg_catalog.pg_proc p ON p.oid = t.tgfoid
     WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
       AND (t.tgname ~* 'audit' OR p.proname ~* 'audit'))
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = $2::pg_catalog.text AND c.relkind IN ('r', 'p')
  AND (n.nspname = $1::pg_catalog.text OR $1::pg_catalog.text IS NULL AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema')
ORDER BY n.nspname = 'public' DESC
LIMIT 1
