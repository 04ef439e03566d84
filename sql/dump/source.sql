-- The database a dump is taken from.
-- Parameters: none. Result: database, oid, encoding, collate, ctype, server_version, in_recovery, role.
-- Privilege: none. Versions: 14-18.
SELECT d.datname::pg_catalog.text, d.oid, pg_catalog.pg_encoding_to_char(d.encoding)::pg_catalog.text,
       d.datcollate::pg_catalog.text, d.datctype::pg_catalog.text,
       pg_catalog.current_setting('server_version'), pg_catalog.pg_is_in_recovery(), CURRENT_USER::pg_catalog.text
FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()
