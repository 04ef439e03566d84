-- The columns of a table that COPY lists: neither dropped nor generated.
-- Parameters: $1 the table as quoted SQL (text). Result: attname in order. Privilege: none. Versions: 14-18.
SELECT attname::pg_catalog.text FROM pg_catalog.pg_attribute
WHERE attrelid = ($1::pg_catalog.text)::pg_catalog.regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attnum
