-- The columns of a table's primary key, in its order.
-- Parameters: $1 the table as quoted SQL (text). Result: attname. Privilege: none. Versions: 14-18.
SELECT a.attname::pg_catalog.text
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::pg_catalog.int2[]) WITH ORDINALITY AS k(attnum, place)
JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
WHERE i.indrelid = ($1::pg_catalog.text)::pg_catalog.regclass AND i.indisprimary AND k.place <= i.indnkeyatts
ORDER BY k.place
