-- Sample: logins, which are members of the group roles. Edit, then run once per cluster as a superuser.
--
-- No password is in any file: after creating a login set it with psql's \password, which sends only the SCRAM verifier
-- (or let your secret store set it), and give it to the agent as a secret reference.
-- NOINHERIT: each verb takes on its own role with SET ROLE and has nothing else. Attributes and settings of a group role
-- do not come along with SET ROLE, except BYPASSRLS; so limits and settings stand on the login.

CREATE ROLE dbagent LOGIN NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 16;
ALTER ROLE dbagent SET search_path = '';
ALTER ROLE dbagent SET default_transaction_read_only = on;   -- off when the agent also maintains partitions or purges
ALTER ROLE dbagent SET lock_timeout = '10s';
GRANT dbagent_dump, dbagent_mon TO dbagent;
-- GRANT dbagent_base TO dbagent;          -- after dbagent_base.sql: for base backups
-- GRANT dbagent_part TO dbagent;          -- after `dbagent init --install-sql`; the agent's sessions for it write
-- After `dbagent audit install`, for verifying the audit chain, checkpoints and alerts; the agent turns read-only off where it
-- writes an alert:
-- GRANT dbagent_verify TO dbagent;

CREATE ROLE consulting_tool LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT 100;
ALTER ROLE consulting_tool SET search_path = 'public';
ALTER ROLE consulting_tool SET statement_timeout = '30s';
ALTER ROLE consulting_tool SET lock_timeout = '5s';
ALTER ROLE consulting_tool SET idle_in_transaction_session_timeout = '60s';
GRANT bc003_app TO consulting_tool;

-- \password dbagent
-- \password consulting_tool

-- Restoring needs far more than dumping: CREATEDB and membership in the role that owns the objects, and on a server of
-- its own it is simply the superuser. So there is no group role for it: the operator restores as an administrator, for
-- the time of the restore, and the agent keeps no such credential:
-- CREATE ROLE dbagent_restore LOGIN NOSUPERUSER CREATEDB NOCREATEROLE NOREPLICATION CONNECTION LIMIT 8
--     VALID UNTIL '…';              -- the end of the restore
-- GRANT owner_of_the_tables TO dbagent_restore;
-- \password dbagent_restore
