-- The partitions of a table, those of them that are partitioned in turn as a whole. The session's time zone must be UTC.
-- Parameters: $1 oid of the parent. Result: oid, schema, name, bound (text), rows (estimate), bytes, detach_pending, in the
-- order of their names. Privilege: none. Versions: 14-18.
SELECT c.oid, n.nspname::text, c.relname::text, pg_catalog.pg_get_expr(c.relpartbound, c.oid),
       greatest(0, (SELECT pg_catalog.sum(greatest(0, leaf.reltuples)) FROM pg_catalog.pg_partition_tree(c.oid) t
                    JOIN pg_catalog.pg_class leaf ON leaf.oid = t.relid AND t.isleaf))::int8,
       (SELECT coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(t.relid)), 0)
        FROM pg_catalog.pg_partition_tree(c.oid) t)::int8,
       i.inhdetachpending
FROM pg_catalog.pg_inherits i
JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.inhparent = $1::oid
ORDER BY n.nspname, c.relname
