-- dbagent 001: the agent's own schema and the record of what is installed in it.
--
-- purpose     schema dbagent; table dbagent.migrations, a row for each file of sql/schema/ that was applied
-- privilege   superuser, or owner of the database with CREATEROLE; the role that applies it owns both
-- versions    PostgreSQL 14 to 18
--
-- Files of this folder are numbered and only ever added: 001-009 the agent itself, 010-049 partitions, 050-089 the audit
-- chain. Once released, none is changed: `dbagent init --install-sql` compares each with the digest recorded here.

CREATE SCHEMA dbagent;
REVOKE ALL ON SCHEMA dbagent FROM PUBLIC;
COMMENT ON SCHEMA dbagent IS 'What dbagent owns in this database; installed by dbagent init --install-sql';

CREATE TABLE dbagent.migrations (
    number        integer     PRIMARY KEY,
    name          text        NOT NULL UNIQUE,
    digest        text        NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    agent_version text        NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT now(),
    applied_by    name        NOT NULL DEFAULT session_user
);
COMMENT ON TABLE dbagent.migrations IS 'The files of sql/schema/ that were applied, with the SHA-256 of their text';
