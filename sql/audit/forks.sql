-- Rows that follow a row which another row follows too; the first, and how many beyond one for each.
-- Parameters: $1 what stands for nothing in the first row's previous_hash (text, or NULL). Result: seq (int8), id, recorded_at, partition (text), rows (int8); no row where there is no fork.
-- Privilege: SELECT on public.audit_logs and audit.chain_seq. Versions: 14-18.
WITH links AS (
    SELECT l.tableoid, l.id, l.recorded_at, NULLIF(l.previous_hash, $1::pg_catalog.text) AS previous_hash FROM public.audit_logs l
)
SELECT s.seq, a.id::pg_catalog.text, a.recorded_at::pg_catalog.text,
       (SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid = a.tableoid),
       (SELECT pg_catalog.sum(f.more) FROM (SELECT pg_catalog.count(*) - 1 AS more FROM links GROUP BY previous_hash
            HAVING pg_catalog.count(*) > 1) f)::pg_catalog.int8
FROM links a
JOIN (SELECT previous_hash FROM links GROUP BY previous_hash HAVING pg_catalog.count(*) > 1) f
    ON a.previous_hash IS NOT DISTINCT FROM f.previous_hash
LEFT JOIN audit.chain_seq s ON s.id = a.id AND s.recorded_at = a.recorded_at
ORDER BY s.seq NULLS LAST, a.recorded_at
LIMIT 1
