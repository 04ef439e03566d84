-- Role dbagent_dump: reads every table for full, audit and incremental dumps.
--
-- purpose     group role without a login; the agent's login is a member and takes it on with SET ROLE (pg_dump --role)
-- apply       in each database that is dumped (it may be run twice)
-- privilege   superuser (BYPASSRLS and pg_read_all_data are given)
-- versions    PostgreSQL 14 to 18
--
-- BYPASSRLS is an attribute: it is not inherited, only SET ROLE brings it. Without it pg_dump fails on sessions and
-- password_history. pg_read_all_data does not cover large objects: GRANT SELECT ON LARGE OBJECT each that is to be
-- dumped. It cannot read passwords either: pg_dumpall needs --no-role-passwords.

DO $$
BEGIN
    CREATE ROLE dbagent_dump NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

ALTER ROLE dbagent_dump BYPASSRLS;
GRANT pg_read_all_data TO dbagent_dump;
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbagent_dump', current_database()); END $$;

COMMENT ON ROLE dbagent_dump IS 'dbagent: dumps; group role, no login';
