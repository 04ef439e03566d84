-- 061: seals of the audit chain, as the database keeps them.
--
-- purpose     audit.seals                           the partitions that the agent has signed a seal for
--             audit.record_seal(...)                the agent's word that a signed seal lies in every repository
--             audit.prune_sealed(partition, most)   takes places of a sealed partition that is gone out of chain_seq
-- privilege   superuser, or owner of the database with CREATEROLE and member of audit_owner
-- versions    PostgreSQL 14 to 18
--
-- SQL cannot check an OpenPGP signature: the agent is the gate, and what lies in the repositories decides. A row here
-- without a signed seal lets nobody go unnoticed: the next verification reads the repositories, and says so. What these
-- functions can check they check: the number of rows, that nothing is pruned of a partition that is there, and that
-- nothing goes but places of the sealed stretches that lie within the partition's bounds.

DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['dbagent_part_owner', 'dbagent_part'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', one);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- 010 has made it, or will find it
        END;
    END LOOP;
END
$$;

CREATE TABLE audit.seals (
    partition   text        PRIMARY KEY,
    number      integer     NOT NULL UNIQUE CHECK (number > 0),
    lower_bound timestamp   NOT NULL,
    upper_bound timestamp   NOT NULL,
    rows        bigint      NOT NULL CHECK (rows >= 0),
    stretches   jsonb       NOT NULL,
    root        varchar(64) NOT NULL CHECK (root ~ '^[0-9a-f]{64}$'),
    artifact    text        NOT NULL,
    digest      varchar(64) NOT NULL CHECK (digest ~ '^[0-9a-f]{64}$'),
    recorded_at timestamptz NOT NULL DEFAULT now(),
    pruned_at   timestamptz,
    CHECK (lower_bound < upper_bound)
);

CREATE FUNCTION audit.record_seal(
    of_partition text, number integer, lower_bound timestamp, upper_bound timestamp, rows bigint, stretches jsonb, root text,
    artifact text, digest text)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known audit.seals;
    places bigint;
BEGIN
    SELECT * INTO known FROM audit.seals s WHERE s.partition = of_partition FOR UPDATE;
    IF FOUND THEN
        IF (known.rows, known.root, known.stretches) IS DISTINCT FROM (record_seal.rows, record_seal.root, record_seal.stretches) THEN
            RAISE EXCEPTION 'record a seal of %: one of other rows is recorded', of_partition
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        UPDATE audit.seals s
        SET number = record_seal.number, artifact = record_seal.artifact, digest = record_seal.digest
        WHERE s.partition = of_partition;
        RETURN;
    END IF;
    SELECT count(*) INTO places FROM audit.chain_seq s
    WHERE s.recorded_at >= record_seal.lower_bound AND s.recorded_at < record_seal.upper_bound;
    IF places <> record_seal.rows OR record_seal.upper_bound > timezone('UTC', now()) THEN
        RAISE EXCEPTION 'record a seal of %: it speaks of % rows and the chain has % places until %', of_partition,
            record_seal.rows, places, record_seal.upper_bound USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO audit.seals (partition, number, lower_bound, upper_bound, rows, stretches, root, artifact, digest)
    VALUES (of_partition, record_seal.number, record_seal.lower_bound, record_seal.upper_bound, record_seal.rows,
        record_seal.stretches, record_seal.root, record_seal.artifact, record_seal.digest);
END
$$;

CREATE FUNCTION audit.prune_sealed(of_partition text, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seal audit.seals;
    pruned bigint;
BEGIN
    SELECT * INTO seal FROM audit.seals s WHERE s.partition = of_partition FOR UPDATE;
    IF NOT FOUND OR to_regclass(of_partition) IS NOT NULL THEN
        RAISE EXCEPTION 'prune the places of %: it has no seal, or it is there', of_partition
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM audit.chain_seq s WHERE s.ctid = ANY (ARRAY(
        SELECT c.ctid FROM audit.chain_seq c
        WHERE c.recorded_at >= seal.lower_bound AND c.recorded_at < seal.upper_bound
          AND EXISTS (SELECT FROM jsonb_to_recordset(seal.stretches) AS r (first bigint, last bigint) WHERE c.seq BETWEEN r.first AND r.last)
        LIMIT most));
    GET DIAGNOSTICS pruned = ROW_COUNT;
    IF pruned = 0 THEN
        UPDATE audit.seals s SET pruned_at = now() WHERE s.partition = of_partition AND s.pruned_at IS NULL;
    END IF;
    RETURN pruned;
END
$$;

ALTER TABLE audit.seals OWNER TO audit_owner;
ALTER FUNCTION audit.record_seal(text, integer, timestamp, timestamp, bigint, jsonb, text, text, text) OWNER TO audit_owner;
ALTER FUNCTION audit.prune_sealed(text, integer) OWNER TO audit_owner;
REVOKE ALL ON audit.seals FROM PUBLIC;
REVOKE ALL ON FUNCTION audit.record_seal(text, integer, timestamp, timestamp, bigint, jsonb, text, text, text),
    audit.prune_sealed(text, integer) FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO dbagent_part, dbagent_part_owner;
GRANT SELECT ON audit.seals TO dbagent_verify, dbagent_part, dbagent_part_owner;
GRANT EXECUTE ON FUNCTION audit.record_seal(text, integer, timestamp, timestamp, bigint, jsonb, text, text, text),
    audit.prune_sealed(text, integer) TO dbagent_part;

COMMENT ON TABLE audit.seals IS 'Partitions with a signed seal; the signed object in the repositories decides';
