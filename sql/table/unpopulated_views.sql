-- Materialized views that hold no rows because they were never filled.
-- Parameters: none. Result: the view as quoted SQL. Privilege: none. Versions: 14-18.
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'm' AND NOT c.relispopulated
ORDER BY c.oid
