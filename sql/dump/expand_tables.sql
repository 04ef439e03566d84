-- The tables a dump covers: those named, and for each partitioned one every partition below it.
-- Parameters: $1 schemas (text[], an element is null where none was written), $2 names (text[], as many); both empty for
-- every user table. Result: wanted (place in the list, null for every table), oid, schema, name, relkind, is_root.
-- Privilege: none. Versions: 14-18.
WITH RECURSIVE wanted AS (
    SELECT w.place, c.oid, n.nspname, c.relname, c.relkind
    FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]))
         WITH ORDINALITY AS w(schema, name, place)
    JOIN pg_catalog.pg_class c ON c.relname::pg_catalog.text = w.name AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND (w.schema IS NULL OR n.nspname::pg_catalog.text = w.schema)
    WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
    UNION ALL
    SELECT NULL, c.oid, n.nspname, c.relname, c.relkind
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE pg_catalog.cardinality($2::pg_catalog.text[]) = 0 AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                      WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
), tree AS (
    SELECT place, oid, nspname, relname, relkind, true AS is_root FROM wanted
    UNION
    SELECT t.place, c.oid, n.nspname, c.relname, c.relkind, false
    FROM tree t
    JOIN pg_catalog.pg_inherits i ON i.inhparent = t.oid
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition AND c.relkind IN ('r', 'p')
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE t.relkind = 'p'
)
SELECT place::pg_catalog.int8, oid, nspname::pg_catalog.text, relname::pg_catalog.text, relkind::pg_catalog.text, is_root
FROM tree ORDER BY nspname, relname, is_root DESC
