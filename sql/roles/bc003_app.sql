-- Role bc003_app: what the application may do in the BC-003 database, and no more.
--
-- purpose     group role without a login; the application's logins are its members (see login.sample.sql)
-- apply       after sql/bc-003/, in that database; again whenever the schema was made anew (it may be run twice)
-- privilege   CREATEROLE, and owner of the tables
-- versions    PostgreSQL 14 to 18
--
-- audit_logs: SELECT and INSERT on the parent only. No privilege on any partition: a row cannot go around the parent,
-- nor can one be changed, removed or truncated. login_attempts can be added and read, password_history only read (a
-- trigger writes it); security_events can be marked as resolved. Row-level security applies to sessions and
-- password_history.

DO $$
BEGIN
    CREATE ROLE bc003_app NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL; -- roles belong to the cluster: another database may have made it, or be making it now
END
$$;

DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO bc003_app', current_database()); END $$;
GRANT USAGE ON SCHEMA public TO bc003_app;

GRANT SELECT, INSERT ON public.audit_logs, public.login_attempts TO bc003_app;
GRANT SELECT, INSERT ON public.security_events TO bc003_app;
GRANT UPDATE (resolved_at) ON public.security_events TO bc003_app;
GRANT SELECT ON public.password_history TO bc003_app;
GRANT SELECT, INSERT, UPDATE, DELETE
    ON public.users, public.roles, public.permissions, public.user_roles, public.role_permissions,
       public.sessions, public.security_policies
    TO bc003_app;

COMMENT ON ROLE bc003_app IS 'BC-003 application: group role, no login';
