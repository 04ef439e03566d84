-- The ordinary and partitioned tables of a name, wherever they are but in the system's own schemas.
-- Parameters: $1 the table's name (text), $2 its schema (text), null for any.
-- Result: schema, name, whether it is partitioned. Privilege: none. Versions: 14-18.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, c.relkind = 'p'
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relname = ($1::pg_catalog.text)::pg_catalog.name
    AND ($2::pg_catalog.text IS NULL OR n.nspname = ($2::pg_catalog.text)::pg_catalog.name)
    AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_)'
ORDER BY 1
