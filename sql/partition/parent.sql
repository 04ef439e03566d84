-- A table that partitions are kept for: what it is, and by what it is partitioned.
-- Parameters: $1 schema (text, null for any), $2 name (text).
-- Result: oid, schema, name, is_partitioned, by_range_of_one, key_column, key_type (text), owner, owner_is_superuser,
--         partman_schema (null unless the extension pg_partman is there). Privilege: none. Versions: 14-18.
SELECT c.oid, n.nspname::text, c.relname::text, c.relkind = 'p', coalesce(p.partstrat = 'r' AND p.partnatts = 1, false),
       a.attname::text, pg_catalog.format_type(a.atttypid, NULL), pg_catalog.pg_get_userbyid(c.relowner)::text,
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE oid = c.relowner),
       (SELECT m.nspname::text
        FROM pg_catalog.pg_extension e
        JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.refobjid = e.oid
                                   AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype = 'e'
        JOIN pg_catalog.pg_class config ON config.oid = d.objid AND config.relname = 'part_config'
        JOIN pg_catalog.pg_namespace m ON m.oid = config.relnamespace
        WHERE e.extname = 'pg_partman')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_partitioned_table p ON p.partrelid = c.oid
LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0] AND a.attnum > 0
WHERE c.relname::text = $2::text AND ($1::text IS NULL OR n.nspname::text = $1::text) AND c.relkind IN ('r', 'p')
  AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
