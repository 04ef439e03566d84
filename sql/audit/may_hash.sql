-- Whether the functions that hash rows are there, and may be called by this role.
-- Parameters: none. Result: there, allowed (bool), role (text). Privilege: none. Versions: 14-18.
SELECT pg_catalog.count(DISTINCT p.proname) = 3, COALESCE(pg_catalog.bool_and(pg_catalog.has_function_privilege(p.oid, 'EXECUTE')), false),
       CURRENT_USER::pg_catalog.text
FROM (VALUES ('text_field'), ('row_bytes'), ('row_hash')) f (name)
LEFT JOIN pg_catalog.pg_proc p ON p.proname = f.name AND p.pronamespace = pg_catalog.to_regnamespace('audit')::pg_catalog.oid
