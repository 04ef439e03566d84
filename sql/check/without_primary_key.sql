-- Which tables have no primary key. Partitions follow their parent and are left out.
-- Parameters: $1 oids (oid[]). Result: schema, name. Privilege: none. Versions: 14-18.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND NOT c.relispartition
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p')
ORDER BY 1, 2
