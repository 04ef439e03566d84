-- How many large objects there are, and how many of them this role cannot read.
-- pg_read_all_data does not cover them.
-- Parameters: none. Result: total, unreadable (int8). Privilege: none. Versions: 14-18.
SELECT pg_catalog.count(*), pg_catalog.count(*) FILTER (WHERE NOT (
    r.rolsuper OR pg_catalog.pg_has_role(m.lomowner, 'USAGE')
    OR EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) a
               WHERE a.privilege_type = 'SELECT'
                 AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))))
FROM pg_catalog.pg_largeobject_metadata m
CROSS JOIN (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = CURRENT_USER) r
