-- The months of a conversion that are not copied yet, the oldest first and the present one last.
-- Parameters: $1 schema, $2 name (text). Result: first day of the month (date). Privilege: dbagent_part. Versions: 14-18.
SELECT month::date
FROM dbagent.conversions v
CROSS JOIN LATERAL pg_catalog.generate_series(v.first_day::timestamp, v.last_day - 1, interval '1 month') AS month
WHERE v.schema_name = $1 AND v.table_name = $2 AND v.phase = 'copying'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
                  WHERE i.inhparent = v.other AND c.relname::text = v.table_name || pg_catalog.to_char(month, '"_"YYYY"_"MM'))
ORDER BY month >= pg_catalog.date_trunc('month', pg_catalog.timezone('UTC', pg_catalog.now())), month
