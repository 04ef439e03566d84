-- dbagent 010: the roles of partition maintenance.
--
-- purpose     dbagent_part_owner  owns the functions below and what they record; a member of the owner of each table that
--                                 is maintained, so that the functions can do what only an owner may; nobody is a member
--             dbagent_part        group role without a login; the agent's login takes it on with SET ROLE. It owns
--                                 nothing and may only call the functions, which check what they are asked
-- privilege   superuser, or CREATEROLE
-- versions    PostgreSQL 14 to 18

DO $$
BEGIN
    CREATE ROLE dbagent_part_owner NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

DO $$
BEGIN
    CREATE ROLE dbagent_part NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
END
$$;

GRANT USAGE, CREATE ON SCHEMA dbagent TO dbagent_part_owner;
GRANT USAGE ON SCHEMA dbagent TO dbagent_part;
GRANT SELECT ON dbagent.migrations TO dbagent_part;
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO dbagent_part', current_database()); END $$;

COMMENT ON ROLE dbagent_part_owner IS 'dbagent: owns the partition functions; no login, no members';
COMMENT ON ROLE dbagent_part IS 'dbagent: partition maintenance; group role, no login';
