-- What is wrong between the log and its side table, one line for each class of damage and state of its partition.
-- Parameters: $1 lower and $2 upper bounds (text[]) of the partitions that are there; $3 last seqs (int8[]), $4
-- hashes (text[]) and $5 first seqs (int8[]) of sealed stretches: the place after each follows its hash, and places inside,
-- which may be there still, are passed over; $6 what stands for nothing in the first row's previous_hash (text, or NULL).
-- Result: class (text), covered (bool: a partition for it is there), rows (int8), and of the first: seq (int8), id, recorded_at,
-- partition, expected, actual (text).
-- Classes: missing (a place without a row), extra (a row without a place), altered (another hash than the place has),
-- unlinked (the row does not follow the place before), gap (places are gone: rows is their number, seq the first).
-- Privilege: SELECT on public.audit_logs and audit.chain_seq. Versions: 14-18.
WITH places AS (
    SELECT s.seq, s.id, s.recorded_at, s.hash,
           COALESCE(sealed.last_seq, pg_catalog.lag(s.seq, 1, 0::pg_catalog.int8) OVER by_seq) AS seq_before,
           COALESCE(sealed.hash, pg_catalog.lag(s.hash) OVER by_seq) AS before
    FROM (SELECT c.* FROM audit.chain_seq c WHERE NOT EXISTS (
        SELECT FROM ROWS FROM (pg_catalog.unnest($5::pg_catalog.int8[]), pg_catalog.unnest($3::pg_catalog.int8[])) AS gone (first_seq, last_seq)
        WHERE c.seq BETWEEN gone.first_seq AND gone.last_seq)) s
    LEFT JOIN ROWS FROM (pg_catalog.unnest($3::pg_catalog.int8[]), pg_catalog.unnest($4::pg_catalog.text[])) AS sealed (last_seq, hash)
        ON sealed.last_seq = s.seq - 1
    WINDOW by_seq AS (ORDER BY s.seq)
), both_sides AS (
    SELECT p.seq, p.seq_before, p.before, p.hash AS place_hash, COALESCE(p.id, a.id) AS id,
           COALESCE(p.recorded_at, a.recorded_at) AS recorded_at, a.tableoid, a.hash AS row_hash,
           NULLIF(a.previous_hash, $6::pg_catalog.text) AS previous_hash
    FROM places p FULL JOIN public.audit_logs a ON a.id = p.id AND a.recorded_at = p.recorded_at
), classified AS (
    SELECT 'gap' AS class, seq_before + 1 AS seq, NULL::pg_catalog.uuid AS id, NULL::pg_catalog.timestamp AS recorded_at,
           NULL::pg_catalog.oid AS tableoid, NULL::pg_catalog.text AS expected, NULL::pg_catalog.text AS actual,
           seq - seq_before - 1 AS rows
    FROM both_sides WHERE seq > seq_before + 1
    UNION ALL
    SELECT c.class, seq, id, recorded_at, tableoid,
           CASE c.class WHEN 'unlinked' THEN before ELSE place_hash END,
           CASE c.class WHEN 'unlinked' THEN previous_hash ELSE row_hash END, 1
    FROM both_sides,
    LATERAL (SELECT CASE WHEN row_hash IS NULL THEN 'missing'
                         WHEN seq IS NULL THEN 'extra'
                         WHEN place_hash <> row_hash THEN 'altered'
                         WHEN seq = seq_before + 1 AND previous_hash IS DISTINCT FROM before THEN 'unlinked' END AS class) c
    WHERE c.class IS NOT NULL
), covered AS (
    SELECT k.*, k.class <> 'missing' OR EXISTS (
        SELECT FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS b (lower, upper)
        WHERE k.recorded_at >= b.lower::pg_catalog.timestamp AND k.recorded_at < b.upper::pg_catalog.timestamp) AS covered
    FROM classified k
)
SELECT DISTINCT ON (class, covered) class, covered,
       (pg_catalog.sum(rows) OVER (PARTITION BY class, covered))::pg_catalog.int8,
       seq, id::pg_catalog.text, recorded_at::pg_catalog.text,
       (SELECT c.relname::pg_catalog.text FROM pg_catalog.pg_class c WHERE c.oid = covered.tableoid),
       expected::pg_catalog.text, actual::pg_catalog.text
FROM covered
ORDER BY class, covered, seq NULLS LAST, recorded_at
