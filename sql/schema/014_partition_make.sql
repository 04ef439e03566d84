-- dbagent 014: makes a partition, with the rows of the default partition that belong to it.
--
-- purpose     dbagent.make_partition(schema, table, name, from, to) -> rows moved
--             from and to are days in UTC, from <= key < to, both in one month or to the first of the next
-- privilege   dbagent_part; SECURITY DEFINER as dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- CREATE TABLE (LIKE …) and ATTACH, because ATTACH locks the parent less (SHARE UPDATE EXCLUSIVE) than PARTITION OF does.
-- ATTACH fails while rows of the new range lie in the default partition, so these are moved in the same transaction. For that
-- the parent is locked exclusively: a query that was planned with the partitions of before, and then waited for the default
-- partition, would be run with a snapshot of after, and see the rows in neither (tested). The caller sets lock_timeout, and
-- asks for no more rows at once than are moved in a second or so.
-- The table's own triggers do not fire for rows that only change their place.

CREATE FUNCTION dbagent.make_partition(
    parent_schema text, parent_name text, partition_name text, from_day date, to_day date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent record;
    stray oid;
    child oid;
    moved bigint := 0;
    lower_bound text;
    upper_bound text;
    range text;
    has_strays boolean;
    missing text;
BEGIN
    SELECT * INTO parent FROM dbagent.partition_parent(parent_schema, parent_name);
    IF from_day IS NULL OR to_day IS NULL OR from_day >= to_day OR to_day > date_trunc('month', from_day) + interval '1 month'
        OR from_day > now() + interval '121 months' THEN
        RAISE EXCEPTION 'make a partition of %.%: from % to % is no month or part of one', parent_schema, parent_name,
            from_day, to_day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF partition_name NOT IN (parent_name || to_char(from_day, '"_"YYYY"_"MM'), parent_name || to_char(from_day, '"_"YYYY"_"MM"_"DD'))
        OR octet_length(partition_name) > 63 THEN
        RAISE EXCEPTION 'make a partition of %.%: % is no name for it', parent_schema, parent_name, partition_name
            USING ERRCODE = 'invalid_name';
    END IF;
    lower_bound := dbagent.partition_bound(parent.key_type, from_day);
    upper_bound := dbagent.partition_bound(parent.key_type, to_day);
    SELECT nullif(partdefid, 0) INTO stray FROM pg_partitioned_table WHERE partrelid = parent.relation;
    range := format('%1$I >= %2$L AND %1$I < %3$L', parent.key_column, lower_bound, upper_bound);
    has_strays := stray IS NOT NULL AND dbagent.has_rows(stray, range);
    -- The order of ATTACH itself: the parent, then the default partition.
    EXECUTE format('LOCK TABLE ONLY %s IN %s MODE', parent.relation::regclass,
        CASE WHEN has_strays THEN 'ACCESS EXCLUSIVE' ELSE 'SHARE UPDATE EXCLUSIVE' END);
    IF stray IS NOT NULL THEN
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', stray::regclass);
        IF NOT has_strays AND dbagent.has_rows(stray, range) THEN
            RAISE EXCEPTION 'make the partition %.%: rows for it have just come into the default partition', parent_schema,
                partition_name USING ERRCODE = 'lock_not_available';
        END IF;
    END IF;
    EXECUTE format('CREATE TABLE %I.%I (LIKE %s INCLUDING ALL EXCLUDING IDENTITY)%s', parent_schema, partition_name,
        parent.relation::regclass,
        (SELECT format(' TABLESPACE %I', t.spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
         WHERE c.oid = parent.relation));
    child := format('%I.%I', parent_schema, partition_name)::regclass;
    PERFORM dbagent.give_form(parent.relation, child);
    IF has_strays THEN
        moved := dbagent.move_strays(stray, child, range);
    END IF;
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', parent.relation::regclass,
        child::regclass, lower_bound, upper_bound);
    PERFORM dbagent.settle_form(parent.relation, child);
    SELECT string_agg(lack, '; ') INTO missing FROM dbagent.missing_form(parent.relation, child) AS lack;
    IF missing IS NOT NULL THEN
        RAISE EXCEPTION 'make the partition %.%: it is not like its parent: %', parent_schema, partition_name, missing;
    END IF;
    PERFORM dbagent.see_partitions(parent_schema, parent_name);
    RETURN moved;
END
$$;

CREATE FUNCTION dbagent.has_rows(relation oid, range text) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    has boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s WHERE %s)', relation::regclass, range) INTO has;
    RETURN has;
END
$$;

CREATE FUNCTION dbagent.move_strays(stray oid, child oid, range text) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    columns text;
    triggers text[];
    found bigint;
    moved bigint;
    arrived bigint;
BEGIN
    EXECUTE format('SELECT count(*) FROM ONLY %s WHERE %s', stray::regclass, range) INTO found;
    IF found = 0 THEN
        RETURN 0;
    END IF;
    SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
    WHERE attrelid = child AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
    SELECT array_agg(format('ALTER TABLE %s %s TRIGGER %I', stray::regclass,
        CASE tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' ELSE 'ENABLE' END, tgname))
    INTO triggers FROM pg_trigger WHERE tgrelid = stray AND NOT tgisinternal AND tgenabled <> 'D';
    IF triggers IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', stray::regclass);
    END IF;
    EXECUTE format('WITH gone AS (DELETE FROM ONLY %s WHERE %s RETURNING %s) INSERT INTO %s (%s) SELECT %s FROM gone',
        stray::regclass, range, columns, child::regclass, columns, columns);
    GET DIAGNOSTICS moved = ROW_COUNT;
    EXECUTE format('SELECT count(*) FROM %s', child::regclass) INTO arrived;
    IF moved <> found OR arrived <> found THEN
        RAISE EXCEPTION 'move rows out of %: % were there, % went, % came', stray::regclass, found, moved, arrived;
    END IF;
    -- Each as it was, also one of the default partition's own.
    FOR place IN 1 .. coalesce(cardinality(triggers), 0) LOOP
        EXECUTE triggers[place];
    END LOOP;
    RETURN moved;
END
$$;

ALTER FUNCTION dbagent.make_partition(text, text, text, date, date) OWNER TO dbagent_part_owner;
ALTER FUNCTION dbagent.has_rows(oid, text) OWNER TO dbagent_part_owner;
ALTER FUNCTION dbagent.move_strays(oid, oid, text) OWNER TO dbagent_part_owner;
REVOKE ALL ON FUNCTION dbagent.make_partition(text, text, text, date, date), dbagent.has_rows(oid, text),
    dbagent.move_strays(oid, oid, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION dbagent.make_partition(text, text, text, date, date) TO dbagent_part;
