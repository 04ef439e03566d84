-- What is not as it must be, whatever a checkpoint says: triggers of the log and each partition, what they call, who may
-- write where.
-- Parameters: $1 body of audit.chain_row (text), $2 body of audit.close_head (text).
-- Result: object (text), what (text). No row: all as installed. Privilege: none. Versions: 14-18.
WITH logs AS (
    SELECT t.relid AS oid FROM pg_catalog.pg_partition_tree('public.audit_logs'::pg_catalog.regclass) t
), side AS (
    SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relkind = 'r' AND c.relnamespace = pg_catalog.to_regnamespace('audit')::pg_catalog.oid
), functions (oid, body) AS (
    VALUES (pg_catalog.to_regprocedure('audit.chain_row()'), $1::pg_catalog.text),
           (pg_catalog.to_regprocedure('audit.close_head()'), $2::pg_catalog.text)
)
SELECT l.oid::pg_catalog.regclass::pg_catalog.text,
       CASE WHEN t.oid IS NULL THEN 'has no trigger zz_audit_chain'
            WHEN t.tgenabled <> 'A' THEN 'its trigger zz_audit_chain is not ENABLE ALWAYS but ' || t.tgenabled::pg_catalog.text
            ELSE 'its trigger zz_audit_chain is another one' END
FROM logs l LEFT JOIN pg_catalog.pg_trigger t ON t.tgrelid = l.oid AND t.tgname = 'zz_audit_chain'
-- tgtype 7: for each row, before, insert (PostgreSQL, src/include/catalog/pg_trigger.h)
WHERE t.oid IS NULL OR t.tgenabled <> 'A' OR t.tgtype <> 7 OR t.tgqual IS NOT NULL
   OR t.tgfoid IS DISTINCT FROM pg_catalog.to_regprocedure('audit.chain_row()')
UNION ALL
SELECT t.tgrelid::pg_catalog.regclass::pg_catalog.text, 'its trigger ' || t.tgname || ' changes rows after they were hashed'
FROM logs l JOIN pg_catalog.pg_trigger t ON t.tgrelid = l.oid
WHERE t.tgtype::pg_catalog.int4 & 7 = 7 AND t.tgname COLLATE "C" > 'zz_audit_chain' COLLATE "C" AND t.tgenabled <> 'D'
UNION ALL
SELECT 'audit.chain_head', 'its trigger chain_head_close is not as installed'
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgrelid = pg_catalog.to_regclass('audit.chain_head')
    AND t.tgname = 'chain_head_close' AND t.tgenabled = 'A' AND t.tgdeferrable
    AND t.tgfoid = pg_catalog.to_regprocedure('audit.close_head()'))
UNION ALL
SELECT COALESCE(f.oid::pg_catalog.text, 'audit'), 'the trigger''s function is gone, or its body, owner or settings were changed'
FROM functions f LEFT JOIN pg_catalog.pg_proc p ON p.oid = f.oid
WHERE p.oid IS NULL OR p.prosrc <> f.body OR NOT p.prosecdef OR pg_catalog.pg_get_userbyid(p.proowner) <> 'audit_owner'
   OR NOT p.proconfig @> ARRAY['search_path=pg_catalog, pg_temp']
UNION ALL
SELECT x.oid::pg_catalog.regclass::pg_catalog.text,
       pg_catalog.concat_ws(' ', CASE i.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(i.grantee) END,
           'may', i.privilege_type, 'there')
FROM (SELECT oid FROM logs UNION ALL SELECT oid FROM side) x JOIN pg_catalog.pg_class c ON c.oid = x.oid,
LATERAL pg_catalog.aclexplode(c.relacl) i
WHERE i.grantee <> c.relowner
  AND (i.privilege_type IN ('UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
       OR i.privilege_type = 'INSERT' AND x.oid IN (pg_catalog.to_regclass('audit.chain_head'), pg_catalog.to_regclass('audit.chain_seq'),
           pg_catalog.to_regclass('audit.profiles')))
UNION ALL
SELECT x.oid::pg_catalog.regclass::pg_catalog.text, 'its owner is ' || pg_catalog.pg_get_userbyid(c.relowner)
FROM side x JOIN pg_catalog.pg_class c ON c.oid = x.oid WHERE pg_catalog.pg_get_userbyid(c.relowner) <> 'audit_owner'
UNION ALL
SELECT 'audit_owner', 'it may log in, or is a superuser'
FROM pg_catalog.pg_roles r WHERE r.rolname = 'audit_owner' AND (r.rolcanlogin OR r.rolsuper)
UNION ALL
SELECT 'audit_owner', 'the role is gone' WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'audit_owner')
ORDER BY 1, 2
