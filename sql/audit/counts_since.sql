-- Rows by partition among the places after one.
-- Parameters: $1 seq (int8); $2 names, $3 lower and $4 upper bounds of the partitions (text[]).
-- Result: name (text; NULL: no such partition), rows (int8). Privilege: SELECT on audit.chain_seq. Versions: 14-18.
SELECT b.name, pg_catalog.count(*)
FROM audit.chain_seq s
LEFT JOIN ROWS FROM (pg_catalog.unnest($2::pg_catalog.text[]), pg_catalog.unnest($3::pg_catalog.text[]),
                     pg_catalog.unnest($4::pg_catalog.text[])) AS b (name, lower, upper)
    ON s.recorded_at >= b.lower::pg_catalog.timestamp AND s.recorded_at < b.upper::pg_catalog.timestamp
WHERE s.seq > $1::pg_catalog.int8
GROUP BY b.name
