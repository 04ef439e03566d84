-- Partitions of a table that we detached and have not dropped: the run died between, or something was wrong.
-- Parameters: $1 schema (text), $2 name (text) of the parent. Result: oid, schema, name, upper_bound.
-- Privilege: dbagent_part. Versions: 14-18.
SELECT r.relation, r.schema_name, r.table_name, r.upper_bound
FROM dbagent.partition_records r
JOIN pg_catalog.pg_class c ON c.oid = r.relation AND c.relkind = 'r' AND NOT c.relispartition AND c.relname::text = r.table_name
WHERE r.parent_schema = $1 AND r.parent_name = $2 AND r.detached_at IS NOT NULL AND r.dropped_at IS NULL AND NOT r.kept
  AND r.database = dbagent.this_database()
ORDER BY r.upper_bound
