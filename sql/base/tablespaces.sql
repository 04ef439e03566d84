-- The tablespaces that have a place of their own.
-- Parameters: none. Result: oid oid, location text. Privilege: none. Versions: 14-18.
SELECT oid, pg_catalog.pg_tablespace_location(oid) AS location FROM pg_catalog.pg_tablespace
WHERE pg_catalog.pg_tablespace_location(oid) <> '' ORDER BY oid
