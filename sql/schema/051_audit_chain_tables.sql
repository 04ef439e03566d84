-- 051: the side tables of the audit chain.
--
-- purpose     audit.chain_head  the newest row of the chain; the one lock that puts inserts in order
--             audit.chain_seq   every row's place in the chain
-- privilege   superuser, or owner of the database and member of audit_owner
-- versions    PostgreSQL 14 to 18
--
-- The log itself keeps exactly its columns. The application has no privilege on either table: its inserts reach them
-- through the trigger, which is SECURITY DEFINER. The unique key of chain_seq is what refuses a second row with the key of
-- an earlier one before anything moves; it begins with the time, so that inserting stays at the index's right edge.
-- chain_head.xact tells a row of the present transaction from the first one in it (055).

CREATE SCHEMA IF NOT EXISTS audit AUTHORIZATION audit_owner;
REVOKE ALL ON SCHEMA audit FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO dbagent_verify;

CREATE TABLE audit.chain_head (
    chain text        NOT NULL PRIMARY KEY,
    seq   bigint      NOT NULL,
    hash  varchar(64),
    xact  xid8,
    CONSTRAINT chain_head_seq_check CHECK (seq >= 0),
    CONSTRAINT chain_head_hash_check CHECK (CASE WHEN seq = 0 THEN hash IS NULL ELSE hash ~ '^[0-9a-f]{64}$' END)
) WITH (fillfactor = 10);

CREATE TABLE audit.chain_seq (
    seq         bigint      NOT NULL PRIMARY KEY,
    id          uuid        NOT NULL,
    recorded_at timestamp   NOT NULL,
    hash        varchar(64) NOT NULL,
    CONSTRAINT chain_seq_seq_check CHECK (seq > 0),
    CONSTRAINT chain_seq_hash_check CHECK (hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT chain_seq_row_key UNIQUE (recorded_at, id)
);

ALTER TABLE audit.chain_head OWNER TO audit_owner;
ALTER TABLE audit.chain_seq OWNER TO audit_owner;
REVOKE ALL ON audit.chain_head, audit.chain_seq FROM PUBLIC;
GRANT SELECT ON audit.chain_head, audit.chain_seq TO dbagent_verify;

INSERT INTO audit.chain_head (chain, seq) VALUES ('audit_logs', 0);

COMMENT ON SCHEMA audit IS 'dbagent: hash chain of public.audit_logs';
COMMENT ON TABLE audit.chain_head IS 'Newest row of each chain; locked by every insert';
COMMENT ON TABLE audit.chain_seq IS 'Place of every row in the chain, from 1';
