-- dbagent 011: what is maintained, and what became of each partition.
--
-- purpose     dbagent.partition_rules   the tables that may be maintained and the least that holds for each; written by the
--                                       administrator who installs (dbagent init --install-sql), never by the agent
--             dbagent.partition_records each partition that was seen: archived, detached, dropped, by us
-- privilege   superuser, or owner of schema dbagent and member of dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- The agent's role reads both and writes neither: its word about an archive or a seal goes through functions. A rule
-- without retention is never dropped from. A record counts only in the database it was made in: a dump that was restored
-- elsewhere brings the records along, and the numbers of its tables are others.

CREATE TABLE dbagent.partition_rules (
    schema_name text    NOT NULL,
    table_name  text    NOT NULL,
    key_column  text    NOT NULL,
    retention   interval CHECK (retention >= interval '1 month'),
    archive     boolean NOT NULL DEFAULT true,
    seal        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (schema_name, table_name),
    CHECK (archive OR NOT seal)
);

CREATE TABLE dbagent.partition_records (
    relation       oid         PRIMARY KEY,
    database       oid         NOT NULL,
    parent_schema  text        NOT NULL,
    parent_name    text        NOT NULL,
    schema_name    text        NOT NULL,
    table_name     text        NOT NULL,
    upper_bound    timestamptz,
    first_seen     timestamptz NOT NULL DEFAULT now(),
    archive_id     text,
    archive_rows   bigint      CHECK (archive_rows >= 0),
    archive_digest text,
    archived_at    timestamptz,
    detached_at    timestamptz,
    kept           boolean     NOT NULL DEFAULT false,
    dropped_at     timestamptz
);

CREATE FUNCTION dbagent.this_database() RETURNS oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT oid FROM pg_database WHERE datname = current_database()
$$;
REVOKE ALL ON FUNCTION dbagent.this_database() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dbagent.this_database() TO dbagent_part;
ALTER FUNCTION dbagent.this_database() OWNER TO dbagent_part_owner;

ALTER TABLE dbagent.partition_rules OWNER TO dbagent_part_owner;
ALTER TABLE dbagent.partition_records OWNER TO dbagent_part_owner;
REVOKE ALL ON dbagent.partition_rules, dbagent.partition_records FROM PUBLIC;
GRANT SELECT ON dbagent.partition_rules, dbagent.partition_records TO dbagent_part;

COMMENT ON TABLE dbagent.partition_rules IS 'Tables whose partitions dbagent may make and drop, and the least retention of each';
COMMENT ON TABLE dbagent.partition_records IS 'What dbagent knows of each partition, those it dropped included';
