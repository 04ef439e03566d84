-- Exports the transaction's snapshot; the first statement after the locks, so that it is taken then and not before.
-- Parameters: none. Result: snapshot id for pg_dump, the snapshot as text. Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_current_snapshot()::pg_catalog.text
