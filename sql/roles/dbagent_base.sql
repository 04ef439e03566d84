-- Role dbagent_base: begins and ends base backups.
--
-- purpose     group role without a login; the agent's login is a member and takes it on with SET ROLE. The files are
--             read by the agent's own user, who must be the server's, or in the group that initdb -g lets in
-- apply       in the database that the agent connects to (it may be run twice)
-- privilege   superuser
-- versions    PostgreSQL 14 to 18

DO $$
BEGIN
    CREATE ROLE dbagent_base NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

DO $$
BEGIN
    IF current_setting('server_version_num')::int >= 150000 THEN
        GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean) TO dbagent_base;
    ELSE
        GRANT EXECUTE ON FUNCTION pg_start_backup(text, boolean, boolean), pg_stop_backup(boolean, boolean) TO dbagent_base;
    END IF;
END
$$;
GRANT EXECUTE ON FUNCTION pg_switch_wal() TO dbagent_base;
GRANT pg_read_all_settings TO dbagent_base;
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbagent_base', current_database()); END $$;

COMMENT ON ROLE dbagent_base IS 'dbagent: base backups; group role, no login';
