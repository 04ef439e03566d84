-- What a table's columns are: two tables that agree in it can hold the same rows.
-- Parameters: $1 the table as quoted SQL (text). Result: name and type of each column, whether it is generated, by name.
-- Privilege: none. Versions: 14-18.
SELECT attname::pg_catalog.text, pg_catalog.format_type(atttypid, atttypmod), attgenerated <> ''
FROM pg_catalog.pg_attribute
WHERE attrelid = ($1::pg_catalog.text)::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped
ORDER BY 1
