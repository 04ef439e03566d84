-- dbagent 016: an administrator hands a table to partition maintenance.
--
-- purpose     dbagent.register_parent(schema, table, key, retention, archive, seal) -> what was changed, for people
-- privilege   superuser, or owner of schema dbagent with CREATEROLE; runs with the caller's own rights
-- versions    PostgreSQL 14 to 18
--
-- dbagent_part_owner becomes a member of the table's owner. Where that is a superuser, membership would make the functions
-- superusers too; so the table and its partitions are given to dbagent_part_owner instead, which is said and asked for
-- before. Everything else about them stays.

CREATE FUNCTION dbagent.register_parent(
    parent_schema text, parent_name text, key_column text, retention interval, archive boolean, seal boolean)
RETURNS SETOF text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parent CONSTANT regclass := format('%I.%I', parent_schema, parent_name)::regclass;
    owner oid;
    one regclass;
    one_function regprocedure;
BEGIN
    SELECT relowner INTO owner FROM pg_class WHERE oid = parent;
    INSERT INTO dbagent.partition_rules AS rule VALUES (parent_schema, parent_name, key_column, retention, archive, seal)
    ON CONFLICT (schema_name, table_name) DO UPDATE
    SET key_column = excluded.key_column, retention = excluded.retention, archive = excluded.archive, seal = excluded.seal
    WHERE (rule.key_column, rule.retention, rule.archive, rule.seal)
          IS DISTINCT FROM (excluded.key_column, excluded.retention, excluded.archive, excluded.seal);
    IF FOUND THEN
        RETURN NEXT format('%s is registered: kept %s', parent, coalesce(retention::text, 'for ever'));
    END IF;
    IF (SELECT rolsuper FROM pg_roles WHERE oid = owner) THEN
        FOR one IN SELECT relid FROM pg_partition_tree(parent) WHERE relid IS NOT NULL
                   UNION SELECT parent LOOP
            EXECUTE format('ALTER TABLE %s OWNER TO dbagent_part_owner', one);
        END LOOP;
        RETURN NEXT format('%s and its partitions now belong to dbagent_part_owner', parent);
    END IF;
    SELECT relowner INTO owner FROM pg_class WHERE oid = parent;
    FOR one IN SELECT c.oid FROM pg_partition_tree(parent) t JOIN pg_class c ON c.oid = t.relid
               WHERE c.relowner <> owner AND EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.relowner AND r.rolsuper) LOOP
        EXECUTE format('ALTER TABLE %s OWNER TO %I', one, pg_get_userbyid(owner));
        RETURN NEXT format('%s now belongs to %s, as its parent', one, pg_get_userbyid(owner));
    END LOOP;
    IF NOT pg_has_role('dbagent_part_owner', owner, 'USAGE') THEN
        EXECUTE format('GRANT %I TO dbagent_part_owner', pg_get_userbyid(owner));
        RETURN NEXT format('dbagent_part_owner is a member of %s', pg_get_userbyid(owner));
    END IF;
    -- ATTACH makes the parent's triggers on the partition, which takes the right to call their functions.
    FOR one_function IN
        SELECT DISTINCT tgfoid::regprocedure FROM pg_trigger
        WHERE tgrelid = parent AND NOT tgisinternal AND NOT has_function_privilege('dbagent_part_owner', tgfoid, 'EXECUTE')
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO dbagent_part_owner', one_function);
        RETURN NEXT format('dbagent_part_owner may call %s, a trigger of %s', one_function, parent);
    END LOOP;
    EXECUTE format('GRANT USAGE, CREATE ON SCHEMA %I TO dbagent_part_owner, %I', parent_schema,
        (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = parent));
END
$$;

REVOKE ALL ON FUNCTION dbagent.register_parent(text, text, text, interval, boolean, boolean) FROM PUBLIC;
