-- Whether this role may read the history of the timelines.
-- Parameters: none. Result: one boolean. Privilege: none. Versions: 14-18.
SELECT pg_catalog.has_function_privilege(
    'pg_catalog.pg_read_file(pg_catalog.text, pg_catalog.int8, pg_catalog.int8, pg_catalog.bool)', 'EXECUTE')
