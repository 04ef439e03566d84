-- Foreign keys that refer to a table, by itself or as a partition of another, or to one of its partitions.
-- Parameters: $1 the table as quoted SQL (text).
-- Result: constraint_name for people, child as quoted SQL, condition that joins child c to the table t.
-- Privilege: none. Versions: 14-18.
SELECT pg_catalog.format('%s.%s', c.conrelid::pg_catalog.regclass, pg_catalog.quote_ident(c.conname)),
       c.conrelid::pg_catalog.regclass::pg_catalog.text,
       (SELECT pg_catalog.string_agg(pg_catalog.format('c.%I = t.%I', ca.attname, ta.attname), ' AND ')
        FROM ROWS FROM (pg_catalog.unnest(c.conkey), pg_catalog.unnest(c.confkey)) AS k(child, parent)
        JOIN pg_catalog.pg_attribute ca ON ca.attrelid = c.conrelid AND ca.attnum = k.child
        JOIN pg_catalog.pg_attribute ta ON ta.attrelid = c.confrelid AND ta.attnum = k.parent)
FROM pg_catalog.pg_constraint c
WHERE c.contype = 'f' AND c.conparentid = 0 AND c.confrelid IN (
    SELECT ($1::pg_catalog.text)::pg_catalog.regclass
    UNION SELECT relid FROM pg_catalog.pg_partition_ancestors(($1::pg_catalog.text)::pg_catalog.regclass) AS a(relid)
    UNION SELECT relid FROM pg_catalog.pg_partition_tree(($1::pg_catalog.text)::pg_catalog.regclass))
ORDER BY 1
