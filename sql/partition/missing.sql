-- Partitions of a table that were there, are gone, and were not dropped by us.
-- Parameters: $1 schema (text), $2 name (text) of the parent. Result: schema, name, detached (it is there by itself).
-- Privilege: dbagent_part. Versions: 14-18.
SELECT r.schema_name, r.table_name, c.oid IS NOT NULL
FROM dbagent.partition_records r
LEFT JOIN pg_catalog.pg_class c ON c.oid = r.relation
WHERE r.parent_schema = $1 AND r.parent_name = $2 AND r.dropped_at IS NULL AND NOT r.kept
  AND (c.oid IS NULL OR r.detached_at IS NULL AND NOT c.relispartition)
  AND r.database = dbagent.this_database()
ORDER BY 1, 2
