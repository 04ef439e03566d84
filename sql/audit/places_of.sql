-- The places in the chain of some rows.
-- Parameters: $1 ids (text[]), $2 times (int8[], microseconds since 2000-01-01), in pairs.
-- Result: ordinal (int8, from 1), seq (int8, NULL where it has none), id (text), recorded_at (text).
-- Privilege: SELECT on audit.chain_seq. Versions: 14-18.
SELECT r.ordinal, s.seq, r.id, r.recorded_at::pg_catalog.text
FROM (SELECT u.ordinal, u.id,
             CASE u.micros WHEN 9223372036854775807 THEN 'infinity'::pg_catalog.timestamp
                           WHEN -9223372036854775808 THEN '-infinity'::pg_catalog.timestamp
                           ELSE '2000-01-01'::pg_catalog.timestamp + u.micros / 1000000 * INTERVAL '1 second'
                                + u.micros % 1000000 * INTERVAL '1 microsecond' END AS recorded_at
      FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.int8[])) WITH ORDINALITY AS u (id, micros, ordinal)) r
LEFT JOIN audit.chain_seq s ON s.id = r.id::pg_catalog.uuid AND s.recorded_at = r.recorded_at
ORDER BY s.seq NULLS LAST, r.recorded_at
