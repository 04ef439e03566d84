-- dbagent 013: what a new partition takes over from its parent and its sisters besides columns, and whether it has it.
--
-- purpose     dbagent.give_form(parent, child)    owner, privileges, comment, statistics targets, storage options
--             dbagent.settle_form(parent, child)  after attaching: triggers enabled as the parent's, replica identity
--             dbagent.missing_form(parent, child) what an attached partition lacks, a text each; nothing when it is whole
-- privilege   superuser, or member of dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- Privileges are the parent's, with two exceptions: a table that is sealed has them on the parent alone, so that no row
-- goes around it (sql/roles/bc003_app.sql); nor does one with row-level security, which a grant on a partition would
-- evade. Storage options come from the newest sister, because a partitioned table has none.

CREATE FUNCTION dbagent.give_form(parent oid, child oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    target CONSTANT text := child::regclass::text;
    one record;
    held boolean;
    options text;
BEGIN
    SELECT c.relrowsecurity OR coalesce(r.seal, false) INTO held
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN dbagent.partition_rules r ON r.schema_name = n.nspname AND r.table_name = c.relname
    WHERE c.oid = parent;
    FOR one IN
        SELECT a.attname, a.attstattarget FROM pg_attribute a
        WHERE a.attrelid = parent AND a.attnum > 0 AND NOT a.attisdropped AND coalesce(a.attstattarget, -1) >= 0
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET STATISTICS %s', target, one.attname, one.attstattarget);
    END LOOP;
    FOR one IN
        SELECT a.attname, o.option_name, o.option_value
        FROM pg_attribute a CROSS JOIN LATERAL pg_options_to_table(a.attoptions) o
        WHERE a.attrelid = parent AND a.attnum > 0 AND NOT a.attisdropped
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET (%I = %L)', target, one.attname, one.option_name, one.option_value);
    END LOOP;
    SELECT string_agg(format('%I = %L', o.option_name, o.option_value), ', ') INTO options
    FROM (SELECT c.reloptions FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
          WHERE i.inhparent = parent AND c.oid <> child AND pg_get_expr(c.relpartbound, c.oid) <> 'DEFAULT'
          ORDER BY c.oid DESC LIMIT 1) sister
    CROSS JOIN LATERAL pg_options_to_table(sister.reloptions) o;
    IF options IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s SET (%s)', target, options);
    END IF;
    IF NOT held THEN
        PERFORM dbagent.give_privileges(parent, child);
    END IF;
    EXECUTE format('ALTER TABLE %s OWNER TO %I', target,
        (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = parent));
END
$$;

CREATE FUNCTION dbagent.give_privileges(parent oid, child oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
BEGIN
    FOR one IN
        SELECT a.grantee, a.privilege_type, a.is_grantable, NULL::name AS attname
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a WHERE c.oid = parent AND a.grantee <> c.relowner
        UNION ALL
        SELECT a.grantee, a.privilege_type, a.is_grantable, t.attname
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid CROSS JOIN LATERAL aclexplode(t.attacl) a
        WHERE c.oid = parent AND t.attnum > 0 AND NOT t.attisdropped AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s%s ON %s TO %s%s', one.privilege_type,
            CASE WHEN one.attname IS NULL THEN '' ELSE format(' (%I)', one.attname) END, child::regclass,
            CASE one.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(one.grantee)) END,
            CASE WHEN one.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
END
$$;

CREATE FUNCTION dbagent.settle_form(parent oid, child oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    one record;
    identity "char";
    identity_index text;
BEGIN
    FOR one IN
        SELECT mine.tgname, theirs.tgenabled FROM pg_trigger mine JOIN pg_trigger theirs ON theirs.oid = mine.tgparentid
        WHERE mine.tgrelid = child AND theirs.tgrelid = parent AND NOT theirs.tgisinternal
          AND mine.tgenabled <> theirs.tgenabled
    LOOP
        EXECUTE format('ALTER TABLE %s %s TRIGGER %I', child::regclass,
            CASE one.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'D' THEN 'DISABLE'
                               ELSE 'ENABLE' END, one.tgname);
    END LOOP;
    SELECT relreplident INTO identity FROM pg_class WHERE oid = parent;
    IF identity = 'i' THEN
        SELECT c.relname INTO identity_index
        FROM pg_index theirs JOIN pg_inherits i ON i.inhparent = theirs.indexrelid
        JOIN pg_index mine ON mine.indexrelid = i.inhrelid JOIN pg_class c ON c.oid = mine.indexrelid
        WHERE theirs.indrelid = parent AND theirs.indisreplident AND mine.indrelid = child;
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY USING INDEX %I', child::regclass, identity_index);
    ELSIF identity <> 'd' THEN
        EXECUTE format('ALTER TABLE %s REPLICA IDENTITY %s', child::regclass,
            CASE identity WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END);
    END IF;
END
$$;

CREATE FUNCTION dbagent.missing_form(parent oid, child oid) RETURNS SETOF text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT 'it is not attached' WHERE NOT EXISTS
        (SELECT FROM pg_inherits WHERE inhrelid = child AND inhparent = parent AND NOT inhdetachpending)
    UNION ALL
    SELECT 'no valid index like ' || theirs.indexrelid::regclass FROM pg_index theirs
    WHERE theirs.indrelid = parent AND NOT EXISTS
        (SELECT FROM pg_inherits i JOIN pg_index mine ON mine.indexrelid = i.inhrelid
         WHERE i.inhparent = theirs.indexrelid AND mine.indrelid = child AND mine.indisvalid)
    UNION ALL
    SELECT 'no constraint like ' || theirs.conname FROM pg_constraint theirs
    WHERE theirs.conrelid = parent AND theirs.contype IN ('c', 'f', 'p', 'u', 'x') AND NOT theirs.connoinherit
      AND NOT EXISTS (SELECT FROM pg_constraint mine WHERE mine.conrelid = child AND mine.contype = theirs.contype
                      AND (mine.conparentid = theirs.oid
                           OR theirs.contype = 'c' AND mine.conname = theirs.conname
                              AND pg_get_constraintdef(mine.oid) = pg_get_constraintdef(theirs.oid)))
    UNION ALL
    SELECT 'no trigger like ' || theirs.tgname FROM pg_trigger theirs
    WHERE theirs.tgrelid = parent AND NOT theirs.tgisinternal AND theirs.tgtype & 1 = 1
      AND NOT EXISTS (SELECT FROM pg_trigger mine WHERE mine.tgrelid = child AND mine.tgparentid = theirs.oid
                      AND mine.tgenabled = theirs.tgenabled)
    UNION ALL
    SELECT 'its owner is another' FROM pg_class mine, pg_class theirs
    WHERE mine.oid = child AND theirs.oid = parent AND mine.relowner <> theirs.relowner
$$;

DO $$
DECLARE
    one text;
BEGIN
    FOREACH one IN ARRAY ARRAY['give_form', 'give_privileges', 'settle_form', 'missing_form'] LOOP
        EXECUTE format('ALTER FUNCTION dbagent.%I(oid, oid) OWNER TO dbagent_part_owner', one);
        EXECUTE format('REVOKE ALL ON FUNCTION dbagent.%I(oid, oid) FROM PUBLIC', one);
    END LOOP;
END
$$;
