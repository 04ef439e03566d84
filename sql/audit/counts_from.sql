-- How many rows and how many places there are from an instant on.
-- Parameters: $1 the instant (text). Result: rows (int8), places (int8).
-- Privilege: SELECT on public.audit_logs and audit.chain_seq. Versions: 14-18.
SELECT (SELECT pg_catalog.count(*) FROM public.audit_logs WHERE recorded_at >= $1::pg_catalog.text::pg_catalog.timestamp),
       (SELECT pg_catalog.count(*) FROM audit.chain_seq WHERE recorded_at >= $1::pg_catalog.text::pg_catalog.timestamp)
