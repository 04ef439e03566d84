-- Databases that restores left behind when they did not end.
-- Parameters: $1 what their names begin with (text). Result: datname. Privilege: none. Versions: 14-18.
SELECT datname::pg_catalog.text FROM pg_catalog.pg_database
WHERE pg_catalog.starts_with(datname::pg_catalog.text, $1::pg_catalog.text) ORDER BY 1
