-- Exports the transaction's snapshot; the first statement after the locks, so that it is taken then and not before.
-- Parameters: none. Result: snapshot id for pg_dump, the snapshot as text, the next transaction id with its epoch (int8; a
-- snapshot's xmax is only the one after the last that ended: older ones may have begun and not ended).
-- Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_export_snapshot(), s::pg_catalog.text,
       pg_catalog.pg_snapshot_xmax(s)::pg_catalog.text::pg_catalog.int8
           + pg_catalog.age(pg_catalog.pg_snapshot_xmax(s)::pg_catalog.xid)
FROM pg_catalog.pg_current_snapshot() s
