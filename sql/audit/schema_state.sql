-- Everything the chain's protection is made of, as lines to compare: tables, columns, constraints, triggers, functions,
-- owners, privileges. Partitions are left out: they come and go (schema_drift looks at their triggers).
-- Parameters: none. Result: line (text), in a fixed order. Privilege: none. Versions: 14-18.
SELECT line COLLATE "C" FROM (
    SELECT pg_catalog.concat_ws(' ', 'table', n.nspname, c.relname, c.relkind, 'owner', pg_catalog.pg_get_userbyid(c.relowner),
               'rls', c.relrowsecurity, 'acl', ARRAY(SELECT i::pg_catalog.text FROM pg_catalog.unnest(c.relacl) i ORDER BY 1))
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname = 'audit' AND c.relkind IN ('r', 'p', 'v')) OR c.oid = 'public.audit_logs'::pg_catalog.regclass
    UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'column', a.attrelid::pg_catalog.regclass, a.attnum, a.attname,
               pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, pg_catalog.pg_get_expr(d.adbin, d.adrelid))
    FROM pg_catalog.pg_attribute a
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid IN ('public.audit_logs'::pg_catalog.regclass, 'audit.chain_head'::pg_catalog.regclass,
                         'audit.chain_seq'::pg_catalog.regclass) AND a.attnum > 0
    UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'constraint', k.conrelid::pg_catalog.regclass, k.conname, k.convalidated,
               pg_catalog.pg_get_constraintdef(k.oid))
    FROM pg_catalog.pg_constraint k
    WHERE k.contype IN ('p', 'u', 'c') AND k.conrelid IN ('public.audit_logs'::pg_catalog.regclass,
        'audit.chain_head'::pg_catalog.regclass, 'audit.chain_seq'::pg_catalog.regclass)
    UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'trigger', t.tgrelid::pg_catalog.regclass, t.tgenabled, pg_catalog.pg_get_triggerdef(t.oid))
    FROM pg_catalog.pg_trigger t
    WHERE NOT t.tgisinternal AND t.tgrelid IN ('public.audit_logs'::pg_catalog.regclass,
        'audit.chain_head'::pg_catalog.regclass, 'audit.chain_seq'::pg_catalog.regclass)
    UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'function', p.oid::pg_catalog.regprocedure, 'owner', pg_catalog.pg_get_userbyid(p.proowner),
               'definer', p.prosecdef, 'config', p.proconfig,
               'acl', ARRAY(SELECT i::pg_catalog.text FROM pg_catalog.unnest(p.proacl) i ORDER BY 1),
               'body', pg_catalog.md5(pg_catalog.concat(p.prosrc, pg_catalog.pg_get_function_sqlbody(p.oid))))
    FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = 'audit'
    UNION ALL
    SELECT pg_catalog.concat_ws(' ', 'role', r.rolname, 'login', r.rolcanlogin, 'super', r.rolsuper, 'members',
               ARRAY(SELECT pg_catalog.pg_get_userbyid(m.member)::pg_catalog.text FROM pg_catalog.pg_auth_members m
                     WHERE m.roleid = r.oid ORDER BY 1))
    FROM pg_catalog.pg_roles r WHERE r.rolname = 'audit_owner'
) lines (line)
ORDER BY 1
