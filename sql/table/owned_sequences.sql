-- The sequences that belong to columns of a table or of a partition below it: identity columns' and OWNED BY.
-- Parameters: $1 the table as quoted SQL (text). Result: schema, name. Privilege: none. Versions: 14-18.
SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text
FROM (SELECT relid FROM pg_catalog.pg_partition_tree(($1::pg_catalog.text)::pg_catalog.regclass)
      UNION SELECT ($1::pg_catalog.text)::pg_catalog.regclass) AS tree(relid)
JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = tree.relid
    AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')
JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
ORDER BY 1, 2
