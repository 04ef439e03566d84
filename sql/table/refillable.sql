-- Whether a table is an ordinary one that has no block yet and that the current role may truncate.
-- Parameters: $1 the table as quoted SQL (text). Result: refillable (boolean). Privilege: none. Versions: 14-18.
SELECT relation.relkind = 'r'
    AND pg_catalog.pg_relation_size(relation.oid) = 0
    AND pg_catalog.has_table_privilege(relation.oid, 'TRUNCATE')
FROM pg_catalog.pg_class AS relation
WHERE relation.oid = ($1::pg_catalog.text)::pg_catalog.regclass
