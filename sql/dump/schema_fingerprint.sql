-- What a schema fingerprint is made of: lines for the columns and keys of each table that is no partition of another one
-- given (partitions come and go by themselves and follow their parent), and for every type whose change would change the text of rows
-- that nobody wrote: labels of enums and attributes of composite types, however deep inside a column's type.
-- A column's number is part of it: one dropped and added again under its old name has lost its values.
-- Parameters: $1 oids (oid[]). Result: oid of the table, line (text), in order. Privilege: none. Versions: 14-18.
WITH RECURSIVE covered AS (
    SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.oid = ANY ($1::pg_catalog.oid[])
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits h
                      WHERE h.inhrelid = c.oid AND c.relispartition AND h.inhparent = ANY ($1::pg_catalog.oid[]))
), inside (relation, type) AS (
    SELECT c.oid, a.atttypid
    FROM covered c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION
    SELECT i.relation, part.type
    FROM inside i JOIN pg_catalog.pg_type t ON t.oid = i.type
    CROSS JOIN LATERAL (
        SELECT t.typelem WHERE t.typelem <> 0
        UNION ALL SELECT t.typbasetype WHERE t.typbasetype <> 0
        UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
        UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a
                  WHERE a.attrelid = t.typrelid AND t.typrelid <> 0 AND a.attnum > 0 AND NOT a.attisdropped
    ) part (type)
)
SELECT oid, line FROM (
    SELECT c.oid, pg_catalog.format('%s column %s %I %s %s %s %s', c.name, a.attnum, a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated, a.attidentity) AS line
    FROM covered c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    UNION ALL
    SELECT c.oid, pg_catalog.format('%s key %s', c.name, pg_catalog.pg_get_constraintdef(k.oid))
    FROM covered c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid AND k.contype IN ('p', 'u')
    UNION ALL
    SELECT c.oid, pg_catalog.format('%s enum %s %s %L', c.name, i.type, e.oid, e.enumlabel)
    FROM covered c JOIN inside i ON i.relation = c.oid JOIN pg_catalog.pg_enum e ON e.enumtypid = i.type
    UNION ALL
    SELECT c.oid, pg_catalog.format('%s composite %s %s %I %s', c.name, i.type, a.attnum, a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod))
    FROM covered c JOIN inside i ON i.relation = c.oid JOIN pg_catalog.pg_type t ON t.oid = i.type AND t.typrelid <> 0
    JOIN pg_catalog.pg_attribute a ON a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
) lines ORDER BY line COLLATE "C"
