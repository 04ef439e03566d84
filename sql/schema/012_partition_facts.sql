-- dbagent 012: a maintained parent, looked up and checked; the beginning of every function below.
--
-- purpose     dbagent.partition_parent(schema, table)  the relation and its key, or an error that says what is wrong
--             dbagent.partition_bound(type, day)       a day's first instant in UTC, as a literal of the key's type
-- privilege   superuser, or member of dbagent_part_owner
-- versions    PostgreSQL 14 to 18
--
-- Only a table that an administrator has registered is touched, only by the one column that was registered, and only when
-- the owner of these functions may act as the table's owner.

CREATE FUNCTION dbagent.partition_parent(
    parent_schema text, parent_name text, OUT relation oid, OUT owner oid, OUT key_column name, OUT key_type oid)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    wanted text;
    column_number smallint;
BEGIN
    SELECT r.key_column INTO wanted FROM dbagent.partition_rules r
    WHERE r.schema_name = parent_schema AND r.table_name = parent_name;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'maintain %.%: it is not registered', parent_schema, parent_name
            USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator registers it: dbagent init --install-sql';
    END IF;
    SELECT c.oid, c.relowner, p.partattrs[0] INTO relation, owner, column_number
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_partitioned_table p ON p.partrelid = c.oid
    WHERE n.nspname = parent_schema AND c.relname = parent_name AND p.partstrat = 'r' AND p.partnatts = 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'maintain %.%: it is not partitioned by the range of one column', parent_schema, parent_name
            USING ERRCODE = 'wrong_object_type', HINT = 'dbagent partition convert makes it so.';
    END IF;
    SELECT a.attname, a.atttypid INTO key_column, key_type FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum = column_number;
    IF key_column IS DISTINCT FROM wanted::name
        OR key_type NOT IN ('timestamp'::regtype, 'timestamptz'::regtype, 'date'::regtype) THEN
        RAISE EXCEPTION 'maintain %.%: its key is % of type %, registered is %', parent_schema, parent_name,
            coalesce(key_column, 'an expression'), key_type::regtype, wanted USING ERRCODE = 'wrong_object_type';
    END IF;
    IF NOT pg_has_role(current_user, owner, 'USAGE') THEN
        RAISE EXCEPTION 'maintain %.%: it belongs to %, and % is no member of that role', parent_schema, parent_name,
            pg_get_userbyid(owner), current_user
            USING ERRCODE = 'insufficient_privilege', HINT = 'An administrator makes it one: dbagent init --install-sql';
    END IF;
END
$$;

CREATE FUNCTION dbagent.partition_bound(key_type oid, day date) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE key_type WHEN 'date'::regtype THEN to_char(day, 'YYYY-MM-DD')
                         WHEN 'timestamp'::regtype THEN to_char(day, 'YYYY-MM-DD 00:00:00')
                         ELSE to_char(day, 'YYYY-MM-DD 00:00:00+00') END
$$;

ALTER FUNCTION dbagent.partition_parent(text, text) OWNER TO dbagent_part_owner;
ALTER FUNCTION dbagent.partition_bound(oid, date) OWNER TO dbagent_part_owner;
REVOKE ALL ON FUNCTION dbagent.partition_parent(text, text), dbagent.partition_bound(oid, date) FROM PUBLIC;
