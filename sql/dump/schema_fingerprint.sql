-- What a schema fingerprint is made of: one line per column and per key of each table that is no partition. Partitions
-- come and go by themselves and follow their parent.
-- Parameters: $1 oids (oid[]). Result: line (text), in order. Privilege: none. Versions: 14-18.
SELECT line FROM (
    SELECT pg_catalog.format('%I.%I column %I %s %s %s %s', n.nspname, c.relname, a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity) AS line
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND NOT c.relispartition
    UNION ALL
    SELECT pg_catalog.format('%I.%I key %s', n.nspname, c.relname, pg_catalog.pg_get_constraintdef(k.oid))
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('p', 'u')
    WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND NOT c.relispartition
) lines ORDER BY line COLLATE "C"
