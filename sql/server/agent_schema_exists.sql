-- Whether anything of the agent's was ever installed in this database.
-- Parameters: none. Result: exists (bool). Privilege: none. Versions: 14-18.
SELECT EXISTS (SELECT FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE n.nspname = 'dbagent' AND c.relname = 'migrations')
