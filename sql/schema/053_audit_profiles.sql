-- 053: formulas of an earlier application, each pinned for a range of the log.
--
-- purpose     audit.profiles: rows whose recorded_at lies in a range keep the hashes that they had before the chain's trigger
--             came, and are verified by that formula. What the definition is, the agent knows; its digest is signed in
--             checkpoints and seals
-- privilege   superuser, or owner of the database and member of audit_owner
-- versions    PostgreSQL 14 to 18

CREATE TABLE audit.profiles (
    name       text        PRIMARY KEY,
    from_at    timestamp   NOT NULL,
    until_at   timestamp   NOT NULL,
    definition text        NOT NULL,
    digest     varchar(64) NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    pinned_at  timestamptz NOT NULL DEFAULT now(),
    CHECK (from_at < until_at)
);

ALTER TABLE audit.profiles OWNER TO audit_owner;
REVOKE ALL ON audit.profiles FROM PUBLIC;
GRANT SELECT ON audit.profiles TO dbagent_verify;

COMMENT ON TABLE audit.profiles IS 'Formulas of rows that were hashed before the chain, by range of recorded_at; the signed digest decides';
