-- dbagent 017: a plain table becomes a partitioned one while it is written to; until the swap (018).
--
-- purpose     dbagent.conversions                          one row for each conversion that is under way
--             dbagent.convert_begin(schema, table)         the partitioned table beside it, the journal, the tracking trigger
--             dbagent.convert_month(schema, table, month)  copies a month and attaches it, all or nothing
--             dbagent.convert_rest(schema, table)          copies what belongs to no month into a default partition
--             dbagent.convert_catch_up(schema, table, n)   applies up to n journal entries to the table not in use
-- privilege   dbagent_part; SECURITY DEFINER as dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- The trigger writes the primary key of every row that is inserted, updated or deleted into the journal. Making it waits for
-- every writer (SHARE ROW EXCLUSIVE), so each change is either in what is copied afterwards or in the journal, or in both.
-- Applying an entry means: whatever the row is now, make it so on the other side. That may be done twice, and in any order,
-- because a change that is not seen yet has an entry of its own. Nothing of this blocks a writer for longer than the trigger
-- takes to be made. The same works in the other direction after the swap, for the way back.

CREATE TABLE dbagent.conversions (
    original    oid         PRIMARY KEY,
    schema_name text        NOT NULL,
    table_name  text        NOT NULL,
    key_column  name        NOT NULL,
    key_type    oid         NOT NULL,
    live        oid         NOT NULL,
    other       oid         NOT NULL,
    phase       text        NOT NULL CHECK (phase IN ('copying', 'swapped')),
    first_day   date        NOT NULL,
    last_day    date        NOT NULL,
    indexes     jsonb       NOT NULL,
    triggers    text[]      NOT NULL DEFAULT '{}',
    begun_at    timestamptz NOT NULL DEFAULT now(),
    swapped_at  timestamptz,
    UNIQUE (schema_name, table_name)
);
ALTER TABLE dbagent.conversions OWNER TO dbagent_part_owner;
REVOKE ALL ON dbagent.conversions FROM PUBLIC;
GRANT SELECT ON dbagent.conversions TO dbagent_part;
COMMENT ON TABLE dbagent.conversions IS 'Conversions of plain tables into partitioned ones that are under way';

-- The conversion of a table, locked; an error when there is none in this phase.
CREATE FUNCTION dbagent.conversion(of_schema text, of_table text, in_phase text) RETURNS dbagent.conversions
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    found dbagent.conversions;
BEGIN
    SELECT * INTO found FROM dbagent.conversions v
    WHERE v.schema_name = of_schema AND v.table_name = of_table AND (in_phase IS NULL OR v.phase = in_phase) FOR UPDATE;
    IF found.original IS NULL THEN
        RAISE EXCEPTION 'go on with the conversion of %.%: there is none in the phase %', of_schema, of_table,
            coalesce(in_phase, 'copying or swapped') USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN found;
END
$$;

-- The columns of a table's primary key, quoted, each behind a prefix.
CREATE FUNCTION dbagent.key_list(relation oid, prefix text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(prefix || quote_ident(a.attname), ', ' ORDER BY k.place)
    FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.number
    WHERE i.indrelid = relation AND i.indisprimary AND k.place <= i.indnkeyatts
$$;

CREATE FUNCTION dbagent.column_list(relation oid, prefix text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT string_agg(prefix || quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;

-- The trigger that writes into the journal, on the table that is in use.
CREATE FUNCTION dbagent.convert_track(original oid, live oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION dbagent.%I()',
        'dbagent_track_' || original, live::regclass, 'convert_track_' || original);
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', live::regclass, 'dbagent_track_' || original);
    EXECUTE format('CREATE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION dbagent.%I()',
        'dbagent_hold_' || original, live::regclass, 'convert_track_' || original);
END
$$;

CREATE FUNCTION dbagent.convert_journal(original oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $outer$
DECLARE
    journal CONSTANT text := format('dbagent.%I', 'convert_journal_' || original);
    keys CONSTANT text := dbagent.key_list(original, '');
BEGIN
    EXECUTE format('CREATE TABLE %s AS SELECT %s FROM %s WITH NO DATA', journal, keys, original::regclass);
    EXECUTE format('ALTER TABLE %s ADD COLUMN entry bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY', journal);
    EXECUTE format('CREATE INDEX ON %s (%s)', journal, keys);
    EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', journal);
    EXECUTE format($make$
        CREATE FUNCTION dbagent.%1$I() RETURNS trigger
        LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
        BEGIN
            IF TG_OP = 'TRUNCATE' THEN
                RAISE EXCEPTION '%%.%% is being converted into a partitioned table and cannot be truncated', TG_TABLE_SCHEMA, TG_TABLE_NAME
                    USING HINT = 'dbagent partition convert --undo takes that back.';
            END IF;
            IF TG_OP <> 'INSERT' THEN
                INSERT INTO %2$s (%3$s) VALUES (%4$s);
            END IF;
            IF TG_OP = 'INSERT' THEN
                INSERT INTO %2$s (%3$s) VALUES (%5$s);
            ELSIF TG_OP = 'UPDATE' AND (%4$s) IS DISTINCT FROM (%5$s) THEN
                INSERT INTO %2$s (%3$s) VALUES (%5$s);
            END IF;
            RETURN NULL;
        END
        $body$ $make$,
        'convert_track_' || original, journal, keys, dbagent.key_list(original, 'OLD.'), dbagent.key_list(original, 'NEW.'));
    EXECUTE format('REVOKE ALL ON FUNCTION dbagent.%I() FROM PUBLIC', 'convert_track_' || original);
END
$outer$;

-- The empty partitioned table with everything of the plain one but its triggers, under a name of its own.
CREATE FUNCTION dbagent.convert_parent(original oid, key_column name, OUT made oid, OUT indexes jsonb)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    named CONSTANT text := (SELECT format('%I.%I', n.nspname, 'dbagent_new_' || original) FROM pg_class c
                            JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = original);
    one record;
    told text;
BEGIN
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES EXCLUDING IDENTITY) PARTITION BY RANGE (%I)',
        named, original::regclass, key_column);
    made := named::regclass;
    -- Before anybody is given a privilege: without policies it shows nobody anything but its owner.
    IF (SELECT relrowsecurity FROM pg_class WHERE oid = original) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', named);
    END IF;
    indexes := '{}';
    FOR one IN
        SELECT i.indexrelid, c.relname, x.oid AS constraint_oid, pg_get_indexdef(i.indexrelid) AS definition, i.indisunique
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        LEFT JOIN pg_constraint x ON x.conindid = i.indexrelid AND x.conrelid = original AND x.contype IN ('p', 'u')
        WHERE i.indrelid = original AND i.indisvalid ORDER BY i.indexrelid
    LOOP
        IF one.constraint_oid IS NOT NULL THEN
            EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s', named, 'dbagent_' || one.indexrelid,
                pg_get_constraintdef(one.constraint_oid));
        ELSE
            EXECUTE format('CREATE %sINDEX %I ON %s %s', CASE WHEN one.indisunique THEN 'UNIQUE ' ELSE '' END,
                'dbagent_' || one.indexrelid, named, substring(one.definition FROM ' (USING .*)$'));
        END IF;
        indexes := indexes || jsonb_build_object('dbagent_' || one.indexrelid, one.relname);
    END LOOP;
    told := obj_description(original, 'pg_class');
    IF told IS NOT NULL THEN
        EXECUTE format('COMMENT ON TABLE %s IS %L', named, told);
    END IF;
    PERFORM dbagent.give_privileges(original, made);
    PERFORM dbagent.give_form(original, made);
END
$$;

CREATE FUNCTION dbagent.convert_begin(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    source record;
    made record;
    first_day date;
BEGIN
    SELECT c.oid, c.relowner, r.key_column, a.atttypid INTO source
    FROM dbagent.partition_rules r
    JOIN pg_namespace n ON n.nspname = r.schema_name JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = r.table_name
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = r.key_column
    WHERE r.schema_name = of_schema AND r.table_name = of_table AND c.relkind = 'r';
    IF NOT FOUND OR NOT pg_has_role(current_user, source.relowner, 'USAGE') THEN
        RAISE EXCEPTION 'convert %.%: it is not a plain table that was registered', of_schema, of_table
            USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator registers it: dbagent init --install-sql';
    END IF;
    -- First of all, because it is what waits for every writer; nothing else is held while it waits.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', source.oid::regclass);
    SELECT * INTO made FROM dbagent.convert_parent(source.oid, source.key_column);
    PERFORM dbagent.convert_journal(source.oid);
    PERFORM dbagent.convert_track(source.oid, source.oid);
    INSERT INTO dbagent.conversions
        (original, schema_name, table_name, key_column, key_type, live, other, phase, first_day, last_day, indexes)
    VALUES (source.oid, of_schema, of_table, source.key_column, source.atttypid, source.oid, made.made, 'copying',
            date_trunc('month', now()), date_trunc('month', now()) + interval '4 months', made.indexes);
END
$$;

-- From which month on there are rows; asked once writers are tracked and may go on.
CREATE FUNCTION dbagent.convert_range(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET row_security = off AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'copying');
    earliest timestamp;
BEGIN
    EXECUTE format('SELECT min(%1$I)::timestamp FROM %2$s WHERE isfinite(%1$I) AND %1$I >= ''1970-01-01''', v.key_column,
        v.live::regclass) INTO earliest;
    UPDATE dbagent.conversions c SET first_day = least(c.first_day, date_trunc('month', earliest)::date)
    WHERE c.original = v.original;
END
$$;

CREATE FUNCTION dbagent.convert_month(of_schema text, of_table text, month date) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'copying');
    part CONSTANT text := format('%I.%I', of_schema, of_table || to_char(month, '"_"YYYY"_"MM'));
    lower_bound CONSTANT text := dbagent.partition_bound(v.key_type, month);
    upper_bound CONSTANT text := dbagent.partition_bound(v.key_type, (month + interval '1 month')::date);
    copied bigint;
BEGIN
    IF month <> date_trunc('month', month) OR month < v.first_day OR month >= v.last_day THEN
        RAISE EXCEPTION 'copy % of %.%: it is no month of the conversion', month, of_schema, of_table
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES)%s', part, v.other::regclass,
        (SELECT format(' TABLESPACE %I', t.spcname) FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace
         WHERE c.oid = v.original));
    EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM ONLY %3$s WHERE %4$I >= %5$L AND %4$I < %6$L', part,
        dbagent.column_list(v.live, ''), v.live::regclass, v.key_column, lower_bound, upper_bound);
    GET DIAGNOSTICS copied = ROW_COUNT;
    PERFORM dbagent.give_options(v.original, part::regclass);
    PERFORM dbagent.give_form(v.other, part::regclass);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', v.other::regclass, part, lower_bound,
        upper_bound);
    PERFORM dbagent.settle_form(v.other, part::regclass);
    EXECUTE format('ANALYZE %s', part);
    RETURN copied;
END
$$;

-- Storage options of the plain table, which a partitioned one cannot have, for its partitions.
CREATE FUNCTION dbagent.give_options(original oid, child oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    options CONSTANT text := (SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ')
        FROM pg_class c CROSS JOIN LATERAL pg_options_to_table(c.reloptions) o WHERE c.oid = original);
BEGIN
    IF options IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s SET (%s)', child::regclass, options);
    END IF;
END
$$;

CREATE FUNCTION dbagent.convert_rest(of_schema text, of_table text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET row_security = off AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'copying');
    part CONSTANT text := format('%I.%I', of_schema, of_table || '_default');
    copied bigint;
BEGIN
    IF (SELECT partdefid FROM pg_partitioned_table WHERE partrelid = v.other) <> 0 THEN
        RETURN 0;
    END IF;
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL EXCLUDING INDEXES)', part, v.other::regclass);
    EXECUTE format('INSERT INTO %1$s (%2$s) SELECT %2$s FROM ONLY %3$s WHERE %4$I < %5$L OR %4$I >= %6$L', part,
        dbagent.column_list(v.live, ''), v.live::regclass, v.key_column, dbagent.partition_bound(v.key_type, v.first_day),
        dbagent.partition_bound(v.key_type, v.last_day));
    GET DIAGNOSTICS copied = ROW_COUNT;
    PERFORM dbagent.give_options(v.original, part::regclass);
    PERFORM dbagent.give_form(v.other, part::regclass);
    EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s DEFAULT', v.other::regclass, part);
    PERFORM dbagent.settle_form(v.other, part::regclass);
    RETURN copied;
END
$$;

-- A few rows of two large tables, by their primary keys: a plan that reads a whole table would hold the swap up for seconds.
CREATE FUNCTION dbagent.apply_journal(v dbagent.conversions, most integer) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET row_security = off
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    journal CONSTANT text := format('dbagent.%I', 'convert_journal_' || v.original);
    keys CONSTANT text := dbagent.key_list(v.live, '');
    columns CONSTANT text := dbagent.column_list(v.live, '');
    entries bigint[];
    on_both text;
BEGIN
    EXECUTE format('SELECT array_agg(entry) FROM (SELECT entry FROM %s ORDER BY entry LIMIT %s) first', journal, most) INTO entries;
    IF entries IS NULL THEN
        RETURN 0;
    END IF;
    SELECT string_agg(format('r.%1$I = j.%1$I', a.attname), ' AND ') INTO on_both
    FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
    WHERE i.indrelid = v.live AND i.indisprimary;
    EXECUTE format('DELETE FROM %s r USING %s j WHERE j.entry = ANY ($1) AND %s', v.other::regclass, journal, on_both) USING entries;
    EXECUTE format('INSERT INTO %s (%s) SELECT %s FROM (SELECT DISTINCT %s FROM %s WHERE entry = ANY ($1)) j JOIN %s r ON %s',
        v.other::regclass, columns, dbagent.column_list(v.live, 'r.'), keys, journal, v.live::regclass, on_both) USING entries;
    EXECUTE format('DELETE FROM %s WHERE entry = ANY ($1)', journal) USING entries;
    RETURN cardinality(entries);
END
$$;

CREATE FUNCTION dbagent.convert_catch_up(of_schema text, of_table text, most integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN dbagent.apply_journal(dbagent.conversion(of_schema, of_table, NULL), most);
END
$$;
