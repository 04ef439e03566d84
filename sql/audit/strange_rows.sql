-- Rows of the log without a place in the chain, or with another hash than their place.
-- Parameters: none. Result: rows (int8). Privilege: SELECT on the log and on audit.chain_seq. Versions: 14-18.
SELECT pg_catalog.count(*) FROM public.audit_logs a
LEFT JOIN audit.chain_seq s ON s.recorded_at = a.recorded_at AND s.id = a.id
WHERE s.hash IS DISTINCT FROM a.hash
