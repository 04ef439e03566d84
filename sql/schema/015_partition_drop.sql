-- dbagent 015: takes a partition away, once its time is over and it is archived: detach, then drop, never cascading.
--
-- purpose     dbagent.see_partitions(schema, table)              remembers the partitions that are there
--             dbagent.record_archive(relation, id, rows, digest) the agent's word that an archive was verified
--             dbagent.partition_seal(relation)                   the recorded seal of a partition, if there is one
--             dbagent.require_droppable(schema, table, relation) every condition below, or an error
--             dbagent.detach_partition(schema, table, relation, only_check)  checks, and detaches unless the caller is about
--                                                            to do that himself, CONCURRENTLY, which no function can
--             dbagent.finish_detach(schema, table, relation)     finishes a DETACH CONCURRENTLY that was cut off
--             dbagent.keep_detached(relation), dbagent.drop_detached(relation)
-- privilege   dbagent_part; SECURITY DEFINER as dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- The conditions are checked here besides in the agent, by this server's clock and the administrator's rule: the upper
-- bound is past the retention, it is not the last partition that can be written to, an archive of it was recorded within a
-- day, and for a sealed table there is a row in audit.seals. SQL cannot check an OpenPGP signature; the agent does, before
-- it records anything. Before the drop the rows are counted once more against the archive.
-- audit.seals, which the audit chain brings, is looked up by name: columns partition (quoted schema and name), rows, artifact.

CREATE FUNCTION dbagent.partition_upper(relation oid) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO, YMD' AS $$
    SELECT CASE WHEN pg_get_expr(c.relpartbound, c.oid) LIKE '% TO (MAXVALUE)' THEN 'infinity'
                ELSE substring(pg_get_expr(c.relpartbound, c.oid) FROM ' TO \(''([^'']+)''\)$') END::timestamptz
    FROM pg_class c WHERE c.oid = relation AND c.relispartition
$$;

CREATE FUNCTION dbagent.see_partitions(parent_schema text, parent_name text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent record;
    seen bigint;
BEGIN
    SELECT * INTO parent FROM dbagent.partition_parent(parent_schema, parent_name);
    INSERT INTO dbagent.partition_records
        (relation, database, parent_schema, parent_name, schema_name, table_name, upper_bound)
    SELECT c.oid, dbagent.this_database(), parent_schema, parent_name, n.nspname, c.relname, dbagent.partition_upper(c.oid)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE i.inhparent = parent.relation
    ON CONFLICT (relation) DO UPDATE
    SET database = excluded.database, parent_schema = excluded.parent_schema, parent_name = excluded.parent_name, schema_name = excluded.schema_name,
        table_name = excluded.table_name, upper_bound = excluded.upper_bound, first_seen = now(), archive_id = NULL,
        archive_rows = NULL, archive_digest = NULL, archived_at = NULL, detached_at = NULL, kept = false, dropped_at = NULL
    -- The number was another table's before.
    WHERE dbagent.partition_records.dropped_at IS NOT NULL
       OR dbagent.partition_records.database <> excluded.database
       OR (dbagent.partition_records.schema_name, dbagent.partition_records.table_name)
          IS DISTINCT FROM (excluded.schema_name, excluded.table_name);
    GET DIAGNOSTICS seen = ROW_COUNT;
    RETURN seen;
END
$$;

CREATE FUNCTION dbagent.record_archive(relation oid, artifact text, archived_rows bigint, digest text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE dbagent.partition_records r
    SET archive_id = artifact, archive_rows = archived_rows, archive_digest = digest, archived_at = now()
    WHERE r.relation = record_archive.relation AND r.dropped_at IS NULL AND r.database = dbagent.this_database();
    IF NOT FOUND THEN
        RAISE EXCEPTION 'record an archive of relation %: it is no partition that was seen', relation
            USING ERRCODE = 'undefined_table';
    END IF;
END
$$;

CREATE FUNCTION dbagent.partition_seal(relation oid, OUT sealed_rows bigint, OUT artifact text) RETURNS SETOF record
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF to_regclass('audit.seals') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT s.rows::bigint, s.artifact::text FROM audit.seals s WHERE s.partition = $1'
            USING (SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
                   JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation);
    END IF;
END
$$;

CREATE FUNCTION dbagent.require_droppable(parent_schema text, parent_name text, relation oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    rule record;
    record record;
    upper_bound CONSTANT timestamptz := dbagent.partition_upper(relation);
    named CONSTANT text := relation::regclass::text;
BEGIN
    SELECT * INTO rule FROM dbagent.partition_rules r WHERE r.schema_name = parent_schema AND r.table_name = parent_name;
    SELECT * INTO record FROM dbagent.partition_records r
    WHERE r.relation = require_droppable.relation AND r.database = dbagent.this_database();
    IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = relation), 'USAGE') THEN
        RAISE EXCEPTION 'drop %: it belongs to %, and not to the owner of its parent', named,
            (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = relation)
            USING ERRCODE = 'insufficient_privilege', HINT = 'dbagent init --install-sql gives it to the right owner.';
    END IF;
    IF upper_bound IS NULL OR rule.retention IS NULL
        OR upper_bound > ((now() AT TIME ZONE 'UTC') - rule.retention) AT TIME ZONE 'UTC' THEN
        RAISE EXCEPTION 'drop %: it ends %, and rows are kept %', named, coalesce(upper_bound::text, 'nowhere'),
            coalesce(rule.retention::text, 'for ever') USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'The registered retention counts; an administrator changes it by dbagent init --install-sql.';
    END IF;
    IF NOT EXISTS (SELECT FROM pg_inherits mine JOIN pg_inherits other ON other.inhparent = mine.inhparent
                   WHERE mine.inhrelid = relation AND other.inhrelid <> relation AND NOT other.inhdetachpending
                     AND dbagent.partition_upper(other.inhrelid) > now()) THEN
        RAISE EXCEPTION 'drop %: no other partition can be written to', named
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF (rule.archive OR rule.seal) AND (record.archive_id IS NULL OR record.archived_at < now() - interval '1 day') THEN
        RAISE EXCEPTION 'drop %: no archive of it was verified within a day', named
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF rule.seal AND NOT EXISTS (SELECT FROM dbagent.partition_seal(relation) s WHERE s.sealed_rows = record.archive_rows) THEN
        RAISE EXCEPTION 'drop %: it needs a seal, and none of its % rows is recorded', named, record.archive_rows
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END
$$;

CREATE FUNCTION dbagent.detach_partition(parent_schema text, parent_name text, relation oid, only_check boolean)
RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent record;
BEGIN
    SELECT * INTO parent FROM dbagent.partition_parent(parent_schema, parent_name);
    IF NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = detach_partition.relation AND i.inhparent = parent.relation) THEN
        RAISE EXCEPTION 'detach %: it is no partition of %.%', detach_partition.relation::regclass, parent_schema, parent_name
            USING ERRCODE = 'undefined_table';
    END IF;
    PERFORM dbagent.require_droppable(parent_schema, parent_name, detach_partition.relation);
    IF NOT only_check THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s', parent.relation::regclass, detach_partition.relation::regclass);
    END IF;
    UPDATE dbagent.partition_records r SET detached_at = now() WHERE r.relation = detach_partition.relation;
END
$$;

CREATE FUNCTION dbagent.finish_detach(parent_schema text, parent_name text, relation oid) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent record;
BEGIN
    SELECT * INTO parent FROM dbagent.partition_parent(parent_schema, parent_name);
    IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = finish_detach.relation AND i.inhparent = parent.relation
               AND i.inhdetachpending) THEN
        EXECUTE format('ALTER TABLE %s DETACH PARTITION %s FINALIZE', parent.relation::regclass,
            finish_detach.relation::regclass);
        UPDATE dbagent.partition_records r SET detached_at = now() WHERE r.relation = finish_detach.relation;
    END IF;
END
$$;

CREATE FUNCTION dbagent.keep_detached(relation oid) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    UPDATE dbagent.partition_records r SET kept = true, detached_at = coalesce(r.detached_at, now())
    WHERE r.relation = keep_detached.relation AND r.dropped_at IS NULL AND r.database = dbagent.this_database()
$$;

CREATE FUNCTION dbagent.drop_detached(relation oid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    record record;
    counted bigint;
BEGIN
    SELECT r.*, rule.archive OR rule.seal AS needs_archive,
           (SELECT c.relispartition FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = r.relation AND c.relkind = 'r' AND n.nspname = r.schema_name AND c.relname = r.table_name)
           AS is_partition
    INTO record FROM dbagent.partition_records r
    JOIN dbagent.partition_rules rule ON rule.schema_name = r.parent_schema AND rule.table_name = r.parent_name
    WHERE r.relation = drop_detached.relation AND r.dropped_at IS NULL AND NOT r.kept
      AND r.database = dbagent.this_database();
    IF NOT FOUND OR record.is_partition IS NULL OR record.is_partition OR record.detached_at IS NULL
        OR record.needs_archive AND (record.archive_id IS NULL OR record.archived_at < now() - interval '1 day') THEN
        RAISE EXCEPTION 'drop relation %: it is no detached partition with a verified archive', drop_detached.relation
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', drop_detached.relation::regclass);
    EXECUTE format('SELECT count(*) FROM ONLY %s', drop_detached.relation::regclass) INTO counted;
    IF record.needs_archive AND counted <> record.archive_rows THEN
        RAISE EXCEPTION 'drop %: it has % rows, its archive %', drop_detached.relation::regclass, counted, record.archive_rows
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('DROP TABLE %s RESTRICT', drop_detached.relation::regclass);
    UPDATE dbagent.partition_records r SET dropped_at = now() WHERE r.relation = drop_detached.relation;
    RETURN counted;
END
$$;

DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['partition_upper(oid)', 'see_partitions(text, text)', 'record_archive(oid, text, bigint, text)',
        'partition_seal(oid)', 'require_droppable(text, text, oid)', 'detach_partition(text, text, oid, boolean)',
        'finish_detach(text, text, oid)', 'keep_detached(oid)', 'drop_detached(oid)'] LOOP
        EXECUTE 'ALTER FUNCTION dbagent.' || one || ' OWNER TO dbagent_part_owner';
        EXECUTE 'REVOKE ALL ON FUNCTION dbagent.' || one || ' FROM PUBLIC';
    END LOOP;
    FOREACH one IN ARRAY ARRAY['partition_upper(oid)', 'see_partitions(text, text)', 'record_archive(oid, text, bigint, text)',
        'partition_seal(oid)', 'detach_partition(text, text, oid, boolean)', 'finish_detach(text, text, oid)', 'keep_detached(oid)',
        'drop_detached(oid)'] LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION dbagent.' || one || ' TO dbagent_part';
    END LOOP;
END
$$;
