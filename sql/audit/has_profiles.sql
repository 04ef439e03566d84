-- Whether this database can pin formulas of older rows.
-- Parameters: none. Result: has (bool). Privilege: none. Versions: 14-18.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'audit' AND c.relname = 'profiles' AND c.relkind = 'r')
