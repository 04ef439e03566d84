-- Takes the places away that come after the last one whose row is in the log.
-- Parameters: none. Result: seq (int8), hash (text) of that one, places taken away (int8). No row: no row of the log has a place.
-- Privilege: SELECT on the log, SELECT and DELETE on audit.chain_seq. Versions: 14-18.
WITH last AS (
    SELECT s.seq, s.hash FROM audit.chain_seq s JOIN public.audit_logs a ON a.recorded_at = s.recorded_at AND a.id = s.id
    ORDER BY s.seq DESC LIMIT 1
), cut AS (
    DELETE FROM audit.chain_seq s USING last WHERE s.seq > last.seq RETURNING s.seq
)
SELECT last.seq, last.hash::pg_catalog.text, (SELECT pg_catalog.count(*) FROM cut) FROM last
