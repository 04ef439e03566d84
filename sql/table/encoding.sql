-- The encoding of the database's text.
-- Parameters: none. Result: its name (text). Privilege: none. Versions: 14-18.
SELECT pg_catalog.getdatabaseencoding()::pg_catalog.text
