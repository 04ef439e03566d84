-- What a role is, belongs to, owns and was granted: all that makes it wide or narrow, in this database and in the cluster.
--
-- purpose     held against what the role is declared to have
-- parameters  $1 role (text)
-- columns     kind (text): role, attribute, member, owner or grant; object (text): the role it is a member of, or the object
--             as pg_identify_object has it; what (text): the attribute, or the privilege; no row when there is no such role.
--             Of roles that PostgreSQL brings, what they belong to in turn is left out.
-- privilege   none
-- versions    PostgreSQL 14 to 18
WITH RECURSIVE role AS (
    SELECT r.* FROM pg_catalog.pg_roles r WHERE r.rolname = $1::pg_catalog.text
), reached AS (
    SELECT m.roleid, m.admin_option FROM pg_catalog.pg_auth_members m JOIN role r ON m.member = r.oid
    UNION
    SELECT m.roleid, false
    FROM reached x
    JOIN pg_catalog.pg_roles g ON g.oid = x.roleid AND g.rolname !~ '^pg_'
    JOIN pg_catalog.pg_auth_members m ON m.member = x.roleid
), held AS (
    SELECT d.classid, d.objid, d.objsubid, d.deptype, r.oid AS role
    FROM pg_catalog.pg_shdepend d
    JOIN role r ON r.oid = d.refobjid
    WHERE d.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
      AND d.dbid IN (0, (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = pg_catalog.current_database()))
), lists AS (
    SELECT h.*, CASE h.classid
        WHEN 'pg_catalog.pg_class'::pg_catalog.regclass THEN CASE h.objsubid
            WHEN 0 THEN (SELECT c.relacl FROM pg_catalog.pg_class c WHERE c.oid = h.objid)
            ELSE (SELECT a.attacl FROM pg_catalog.pg_attribute a WHERE a.attrelid = h.objid AND a.attnum = h.objsubid)
        END
        WHEN 'pg_catalog.pg_proc'::pg_catalog.regclass THEN (SELECT p.proacl FROM pg_catalog.pg_proc p WHERE p.oid = h.objid)
        WHEN 'pg_catalog.pg_namespace'::pg_catalog.regclass THEN (SELECT n.nspacl FROM pg_catalog.pg_namespace n WHERE n.oid = h.objid)
        WHEN 'pg_catalog.pg_database'::pg_catalog.regclass THEN (SELECT b.datacl FROM pg_catalog.pg_database b WHERE b.oid = h.objid)
        WHEN 'pg_catalog.pg_type'::pg_catalog.regclass THEN (SELECT t.typacl FROM pg_catalog.pg_type t WHERE t.oid = h.objid)
        WHEN 'pg_catalog.pg_language'::pg_catalog.regclass THEN (SELECT l.lanacl FROM pg_catalog.pg_language l WHERE l.oid = h.objid)
        WHEN 'pg_catalog.pg_largeobject'::pg_catalog.regclass
            THEN (SELECT m.lomacl FROM pg_catalog.pg_largeobject_metadata m WHERE m.oid = h.objid)
    END AS list
    FROM held h WHERE h.deptype = 'a'
)
SELECT 'role' AS kind, r.rolname::pg_catalog.text AS object, '' AS what FROM role r
UNION ALL
SELECT 'attribute', '', a.name
FROM role r
CROSS JOIN LATERAL (VALUES
    ('LOGIN', r.rolcanlogin), ('SUPERUSER', r.rolsuper), ('CREATEDB', r.rolcreatedb), ('CREATEROLE', r.rolcreaterole),
    ('REPLICATION', r.rolreplication), ('BYPASSRLS', r.rolbypassrls)) a (name, has)
WHERE a.has
UNION ALL
SELECT 'member', g.rolname::pg_catalog.text, CASE WHEN pg_catalog.bool_or(x.admin_option) THEN 'ADMIN' ELSE '' END
FROM reached x JOIN pg_catalog.pg_roles g ON g.oid = x.roleid
GROUP BY g.rolname
UNION ALL
SELECT 'owner', i.identity, i.type
FROM held h CROSS JOIN LATERAL pg_catalog.pg_identify_object(h.classid, h.objid, 0) i
WHERE h.deptype = 'o'
UNION ALL
SELECT 'grant', coalesce(i.identity, ''),
    coalesce(e.privilege_type, 'something') || coalesce(' (' || a.attname || ')', '')
        || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
FROM lists l
LEFT JOIN LATERAL pg_catalog.aclexplode(l.list) e ON true
LEFT JOIN pg_catalog.pg_attribute a
    ON l.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objsubid <> 0 AND a.attrelid = l.objid AND a.attnum = l.objsubid
CROSS JOIN LATERAL pg_catalog.pg_identify_object(l.classid, l.objid, 0) i
WHERE (e.grantee IS NULL OR e.grantee = l.role)
  -- To be let in and to see names opens nothing by itself.
  AND NOT (e.privilege_type = 'USAGE' AND i.type IN ('schema', 'type', 'language'))
  AND NOT (e.privilege_type IN ('CONNECT', 'TEMPORARY') AND i.type = 'database')
ORDER BY 1, 2, 3
