-- The sequences in the schemas of the covered tables.
-- Parameters: $1 schemas (text[]). Result: schema, name, readable. Privilege: none. Versions: 14-18.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, pg_catalog.has_sequence_privilege(c.oid, 'SELECT')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname::pg_catalog.text = ANY ($1::pg_catalog.text[])
ORDER BY 1, 2
