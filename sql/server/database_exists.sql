-- Whether a database exists.
-- Parameters: $1 name (text). Result: one row, or none. Privilege: none. Versions: 14-18.
SELECT 1 FROM pg_catalog.pg_database WHERE datname = $1::pg_catalog.text
