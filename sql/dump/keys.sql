-- The primary keys of tables with rows of their own, and how large those tables are. Asked under their locks: the size
-- would otherwise wait behind an ALTER TABLE without any timeout.
-- Parameters: $1 oids (oid[]). Result: oid, key columns in the key's order (text[], empty without a key), their types
-- (oid[]), bytes (int8).
-- Privilege: none. Versions: 14-18.
SELECT c.oid,
       ARRAY(SELECT a.attname::pg_catalog.text
             FROM pg_catalog.pg_index i
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.place <= i.indnkeyatts
             ORDER BY k.place),
       ARRAY(SELECT a.atttypid
             FROM pg_catalog.pg_index i
             CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k (attnum, place)
             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
             WHERE i.indrelid = c.oid AND i.indisprimary AND i.indisvalid AND k.place <= i.indnkeyatts
             ORDER BY k.place),
       pg_catalog.pg_relation_size(c.oid)
FROM pg_catalog.pg_class c
WHERE c.oid = ANY ($1::pg_catalog.oid[]) AND c.relkind = 'r'
