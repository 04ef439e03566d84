-- 050: the roles of the audit chain.
--
-- purpose     audit_owner owns schema audit and runs its trigger; dbagent_verify reads the log and its side tables, and
--             writes findings and alerts
-- privilege   superuser, or CREATEROLE with the admin option on pg_read_all_data
-- versions    PostgreSQL 14 to 18
--
-- pg_read_all_data, because every month brings a partition that nobody has granted anything on; a verification that
-- cannot read one of them would be an alarm.

DO $$
BEGIN
    CREATE ROLE audit_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

DO $$
BEGIN
    CREATE ROLE dbagent_verify NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

GRANT pg_read_all_data TO dbagent_verify;
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbagent_verify', current_database()); END $$;

COMMENT ON ROLE audit_owner IS 'dbagent: owns schema audit; no login, no members';
COMMENT ON ROLE dbagent_verify IS 'dbagent: verifies the audit chain and raises alerts; group role, no login';
