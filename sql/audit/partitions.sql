-- The leaf partitions of the audit log as the transaction's snapshot has them.
-- Parameters: none.
-- Result: oid, schema, name, lower and upper bound (text; NULL where there is none), is_default, blocks (estimate).
-- Bounds are read from the catalog, never from names. Privilege: none. Versions: 14-18.
SELECT c.oid, n.nspname::pg_catalog.text, c.relname::pg_catalog.text,
       pg_catalog.substring(b.bounds, 'FROM \(''([^'']+)''\)'),
       pg_catalog.substring(b.bounds, 'TO \(''([^'']+)''\)'),
       b.bounds = 'DEFAULT',
       GREATEST(c.relpages, 0)::pg_catalog.int8
FROM pg_catalog.pg_partition_tree('public.audit_logs'::pg_catalog.regclass) t
JOIN pg_catalog.pg_class c ON c.oid = t.relid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace,
LATERAL (SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) AS bounds) b
WHERE t.isleaf AND c.relkind = 'r'
ORDER BY 4 NULLS LAST, 3
