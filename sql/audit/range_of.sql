-- The first and last place of rows whose times lie in a range.
-- Parameters: $1 from, $2 until before (text, as PostgreSQL prints timestamps).
-- Result: first (int8), last (int8), rows (int8); NULL where there is none.
-- Privilege: SELECT on audit.chain_seq. Versions: 14-18.
SELECT pg_catalog.min(seq), pg_catalog.max(seq), pg_catalog.count(*) FROM audit.chain_seq
WHERE recorded_at >= $1::pg_catalog.text::pg_catalog.timestamp AND recorded_at < $2::pg_catalog.text::pg_catalog.timestamp
