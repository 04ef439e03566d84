-- Role dbagent_mon: reads statistics and settings for check, status and metrics.
--
-- purpose     group role without a login; pg_monitor also brings pg_ls_waldir and pg_ls_archive_statusdir
-- apply       in each database that is watched (it may be run twice)
-- privilege   superuser, or CREATEROLE with the admin option on pg_monitor
-- versions    PostgreSQL 14 to 18

DO $$
BEGIN
    CREATE ROLE dbagent_mon NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

GRANT pg_monitor TO dbagent_mon;
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbagent_mon', current_database()); END $$;

COMMENT ON ROLE dbagent_mon IS 'dbagent: check, status, metrics; group role, no login';
