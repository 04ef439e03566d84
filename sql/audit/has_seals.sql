-- Whether this database can keep seals.
-- Parameters: none. Result: has (bool). Privilege: none. Versions: 14-18.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'audit' AND c.relname = 'seals' AND c.relkind = 'r')
