-- What server and database this is, and what the present role may be.
--
-- purpose     version gates, the source record of a manifest, checks of rights
-- parameters  none
-- columns     version_number int4, version text, encoding text, collate text, ctype text, in_recovery bool,
--             wal_level text, database text, database_oid oid, role text, superuser bool, bypass_rls bool, replication bool, create_database bool
-- privilege   none
-- versions    PostgreSQL 14 to 18
SELECT current_setting('server_version_num')::int4 AS version_number,
       current_setting('server_version') AS version,
       pg_encoding_to_char(d.encoding)::text AS encoding,
       d.datcollate::text AS collate,
       d.datctype::text AS ctype,
       pg_is_in_recovery() AS in_recovery,
       current_setting('wal_level') AS wal_level,
       d.datname::text AS database,
       d.oid AS database_oid,
       r.rolname::text AS role,
       r.rolsuper AS superuser,
       r.rolbypassrls AS bypass_rls,
       r.rolreplication AS replication,
       r.rolcreatedb AS create_database
  FROM pg_database d
  JOIN pg_roles r ON r.rolname = current_user
 WHERE d.datname = current_database()
