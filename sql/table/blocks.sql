-- How many blocks of its main fork a table has.
-- Parameters: $1 the table as quoted SQL (text). Result: blocks (bigint). Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_relation_size(($1::pg_catalog.text)::pg_catalog.regclass)
    / pg_catalog.current_setting('block_size')::pg_catalog.int8
