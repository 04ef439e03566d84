-- A table and every partition below it.
-- Parameters: $1 the table as quoted SQL (text). Result: schema, name. Privilege: none. Versions: 14-18.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM (SELECT relid FROM pg_catalog.pg_partition_tree(($1::pg_catalog.text)::pg_catalog.regclass)
      UNION SELECT ($1::pg_catalog.text)::pg_catalog.regclass) AS tree(relid)
JOIN pg_catalog.pg_class c ON c.oid = tree.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2
