-- What a manifest records of each covered table, and what could keep it from being dumped whole.
-- Parameters: $1 oids (oid[]).
-- Result: oid, relfilenode, parent_schema, parent_name, columns as COPY lists them (text[]), bytes (estimate), rows
-- (estimate), readable, rls_active, owner, tablespace oid (null where changes are not logged), database oid.
-- Takes no lock: pg_table_size would wait behind an ALTER TABLE without any timeout.
-- Privilege: none. Versions: 14-18.
SELECT c.oid, c.relfilenode, pn.nspname::pg_catalog.text, pc.relname::pg_catalog.text,
       ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
             WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum),
       ((GREATEST(c.relpages, 0) + GREATEST(t.relpages, 0))::pg_catalog.int8
           * pg_catalog.current_setting('block_size')::pg_catalog.int8),
       GREATEST(c.reltuples, 0)::pg_catalog.int8,
       pg_catalog.has_table_privilege(c.oid, 'SELECT'),
       pg_catalog.row_security_active(c.oid),
       pg_catalog.pg_get_userbyid(c.relowner)::pg_catalog.text,
       CASE WHEN c.relpersistence = 'p' THEN COALESCE(NULLIF(c.reltablespace, 0), d.dattablespace) END,
       d.oid
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid AND c.relispartition
LEFT JOIN pg_catalog.pg_class pc ON pc.oid = i.inhparent
LEFT JOIN pg_catalog.pg_namespace pn ON pn.oid = pc.relnamespace
WHERE c.oid = ANY ($1::pg_catalog.oid[])
