-- dbagent 018: the swap of a conversion, the way back, and its end.
--
-- purpose     dbagent.convert_swap(schema, table)    the partitioned table takes the name
--             dbagent.convert_undo(schema, table)    the plain table takes it back, or never lost it
--             dbagent.convert_finish(schema, table)  the plain table goes
--             dbagent.convert_analyze(schema, table) statistics of the partitioned table as a whole
-- privilege   dbagent_part; SECURITY DEFINER as dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- The swap is one transaction under ACCESS EXCLUSIVE: the last few journal entries, then renames. A statement that waits for
-- the lock meanwhile looks the name up again and goes to the new table (PostgreSQL, src/backend/catalog/namespace.c,
-- RangeVarGetRelidExtended). Afterwards the journal runs in the other direction, so that going back loses nothing.

CREATE FUNCTION dbagent.convert_untrack(original oid, live oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP TRIGGER %I ON %s', 'dbagent_track_' || original, live::regclass);
    EXECUTE format('DROP TRIGGER %I ON %s', 'dbagent_hold_' || original, live::regclass);
END
$$;

CREATE FUNCTION dbagent.convert_swap(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'copying');
    back dbagent.conversions;
    one record;
    statement text;
    ours CONSTANT text[] := ARRAY['dbagent_track_' || v.original, 'dbagent_hold_' || v.original];
    made text[];
    states text[];
    policies text[];
BEGIN
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', v.live::regclass);
    policies := dbagent.policies_of(v.live);
    -- Partitions are made with privileges of their own only where no policy could be evaded by them.
    IF (SELECT (relrowsecurity, relforcerowsecurity) FROM pg_class WHERE oid = v.live)
       <> (SELECT (relrowsecurity, relforcerowsecurity) FROM pg_class WHERE oid = v.other) THEN
        RAISE EXCEPTION 'swap %.%: its row-level security was switched meanwhile', of_schema, of_table
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'dbagent partition convert --undo, and again.';
    END IF;
    IF dbagent.apply_journal(v, 1000) = 1000 THEN
        RAISE EXCEPTION 'swap %.%: too much was written meanwhile', of_schema, of_table USING ERRCODE = 'lock_not_available';
    END IF;
    SELECT array_agg(pg_get_triggerdef(oid) ORDER BY tgname),
           array_agg(format('ALTER TABLE %s %s TRIGGER %I', v.live::regclass,
               CASE tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'D' THEN 'DISABLE'
                              ELSE 'ENABLE' END, tgname) ORDER BY tgname)
    INTO made, states FROM pg_trigger WHERE tgrelid = v.live AND NOT tgisinternal AND tgname <> ALL (ours);
    PERFORM dbagent.convert_untrack(v.original, v.live);
    EXECUTE format('ALTER TABLE %s DISABLE TRIGGER USER', v.live::regclass);
    FOR one IN SELECT key AS temporary, value AS wanted FROM jsonb_each_text(v.indexes) LOOP
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', of_schema, one.wanted, 'dbagent_old_' || substring(one.temporary FROM 9));
        EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', of_schema, one.temporary, one.wanted);
    END LOOP;
    EXECUTE format('ALTER TABLE %s RENAME TO %I', v.live::regclass, 'dbagent_old_' || v.original);
    EXECUTE format('ALTER TABLE %s RENAME TO %I', v.other::regclass, of_table);
    PERFORM dbagent.convert_sequences(v.live, v.other);
    FOREACH statement IN ARRAY coalesce(made, '{}') || coalesce(states, '{}') || policies LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', v.other::regclass,
        (SELECT CASE relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING' WHEN 'd' THEN 'DEFAULT'
                     ELSE (SELECT format('USING INDEX %I', v.indexes ->> ('dbagent_' || i.indexrelid)) FROM pg_index i
                           WHERE i.indrelid = v.live AND i.indisreplident) END
         FROM pg_class WHERE oid = v.live));
    PERFORM dbagent.settle_form(v.other, c.inhrelid) FROM pg_inherits c WHERE c.inhparent = v.other;
    PERFORM dbagent.convert_track(v.original, v.other);
    UPDATE dbagent.conversions c
    SET live = v.other, other = v.live, phase = 'swapped', swapped_at = now(), triggers = coalesce(states, '{}')
    WHERE c.original = v.original;
END
$$;

-- What makes a table's policies on the table that has its name by then.
CREATE FUNCTION dbagent.policies_of(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT coalesce(array_agg(concat_ws(' ', format('CREATE POLICY %I ON %s AS %s FOR %s TO', p.polname, p.polrelid::regclass,
            CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
            CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END),
        (SELECT string_agg(CASE r WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(r)) END, ', ') FROM unnest(p.polroles) r),
        'USING (' || pg_get_expr(p.polqual, p.polrelid) || ')',
        'WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')') ORDER BY p.polname), '{}')
    FROM pg_policy p WHERE p.polrelid = relation
$$;

-- Sequences that belong to a column go with the table that is in use; the other would take them with it when it is dropped.
CREATE FUNCTION dbagent.convert_sequences(from_table oid, to_table oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT d.objid, a.attname FROM pg_depend d
        JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'S'
        JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = from_table
          AND d.deptype = 'a'
    LOOP
        EXECUTE format('ALTER SEQUENCE %s OWNED BY %s.%I', one.objid::regclass, to_table::regclass, one.attname);
    END LOOP;
END
$$;

CREATE FUNCTION dbagent.convert_undo(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, NULL);
    parted oid;
    one record;
    statement text;
BEGIN
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', v.live::regclass);
    -- The plain table would come back without it.
    IF v.phase = 'swapped' AND (SELECT relforcerowsecurity FROM pg_class WHERE oid = v.live) THEN
        RAISE EXCEPTION 'go back with %.%: its row-level security was forced meanwhile', of_schema, of_table
            USING ERRCODE = 'object_not_in_prerequisite_state',
                  HINT = format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY, again, and FORCE it afterwards.', v.live::regclass);
    END IF;
    PERFORM dbagent.convert_untrack(v.original, v.live);
    parted := v.other;
    IF v.phase = 'swapped' THEN
        IF dbagent.apply_journal(v, 1000) = 1000 THEN
            RAISE EXCEPTION 'go back with %.%: too much was written meanwhile', of_schema, of_table
                USING ERRCODE = 'lock_not_available';
        END IF;
        parted := v.live;
        PERFORM dbagent.convert_sequences(v.live, v.other);
    END IF;
    EXECUTE format('DROP TABLE %s RESTRICT', parted::regclass);
    IF v.phase = 'swapped' THEN
        EXECUTE format('ALTER TABLE %s RENAME TO %I', v.other::regclass, of_table);
        FOR one IN SELECT key AS temporary, value AS wanted FROM jsonb_each_text(v.indexes) LOOP
            EXECUTE format('ALTER INDEX %I.%I RENAME TO %I', of_schema, 'dbagent_old_' || substring(one.temporary FROM 9), one.wanted);
        END LOOP;
        FOREACH statement IN ARRAY v.triggers LOOP
            EXECUTE statement;
        END LOOP;
    END IF;
    PERFORM dbagent.convert_forget(v.original);
END
$$;

CREATE FUNCTION dbagent.convert_forget(original oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    EXECUTE format('DROP FUNCTION dbagent.%I()', 'convert_track_' || original);
    EXECUTE format('DROP TABLE dbagent.%I', 'convert_journal_' || original);
    DELETE FROM dbagent.conversions c WHERE c.original = convert_forget.original;
END
$$;

CREATE FUNCTION dbagent.convert_finish(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'swapped');
BEGIN
    PERFORM dbagent.convert_untrack(v.original, v.live);
    EXECUTE format('DROP TABLE %s RESTRICT', v.other::regclass);
    PERFORM dbagent.convert_forget(v.original);
END
$$;

CREATE FUNCTION dbagent.convert_analyze(of_schema text, of_table text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v dbagent.conversions := dbagent.conversion(of_schema, of_table, 'swapped');
BEGIN
    EXECUTE format('ANALYZE %s', v.live::regclass);
END
$$;

DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['conversion(text, text, text)', 'key_list(oid, text)', 'column_list(oid, text)',
        'convert_track(oid, oid)', 'convert_journal(oid)', 'convert_parent(oid, name)', 'give_options(oid, oid)',
        'apply_journal(dbagent.conversions, integer)', 'convert_untrack(oid, oid)', 'convert_sequences(oid, oid)', 'policies_of(oid)',
        'convert_forget(oid)', 'convert_begin(text, text)', 'convert_range(text, text)', 'convert_month(text, text, date)',
        'convert_rest(text, text)', 'convert_catch_up(text, text, integer)', 'convert_swap(text, text)',
        'convert_undo(text, text)', 'convert_finish(text, text)', 'convert_analyze(text, text)'] LOOP
        EXECUTE 'ALTER FUNCTION dbagent.' || one || ' OWNER TO dbagent_part_owner';
        EXECUTE 'REVOKE ALL ON FUNCTION dbagent.' || one || ' FROM PUBLIC';
    END LOOP;
    FOREACH one IN ARRAY ARRAY['convert_begin(text, text)', 'convert_range(text, text)', 'convert_month(text, text, date)',
        'convert_rest(text, text)', 'convert_catch_up(text, text, integer)', 'convert_swap(text, text)',
        'convert_undo(text, text)', 'convert_finish(text, text)', 'convert_analyze(text, text)'] LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION dbagent.' || one || ' TO dbagent_part';
    END LOOP;
END
$$;
