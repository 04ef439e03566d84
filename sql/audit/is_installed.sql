-- Whether this database has an audit log, and its chain.
-- Parameters: none. Result: log (bool), chain (bool). Privilege: none. Versions: 14-18.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'public' AND c.relname = 'audit_logs' AND c.relkind = 'p'),
       2 = (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = 'audit' AND c.relname IN ('chain_head', 'chain_seq') AND c.relkind = 'r')
