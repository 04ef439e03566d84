-- The enabled triggers of a table and of its partitions, the table's own first; those of foreign keys are not among them.
-- Parameters: $1 the table as quoted SQL (text). Result: table and name as quoted SQL, tgenabled (O, R or A).
-- Privilege: none. Versions: 14-18.
SELECT g.tgrelid::pg_catalog.regclass::pg_catalog.text, pg_catalog.quote_ident(g.tgname), g.tgenabled::pg_catalog.text
FROM (SELECT relid, level FROM pg_catalog.pg_partition_tree(($1::pg_catalog.text)::pg_catalog.regclass)
      UNION SELECT ($1::pg_catalog.text)::pg_catalog.regclass, 0) AS tree(relid, level)
JOIN pg_catalog.pg_trigger g ON g.tgrelid = tree.relid
WHERE NOT g.tgisinternal AND g.tgenabled <> 'D'
ORDER BY tree.level, 1, 2
