-- Records that a signed seal of a partition lies in every repository.
-- Parameters: $1 schema and $10 name of the partition (text), $2 number (int4), $3 lower and $4 upper bound (text), $5 rows (int8), $6 stretches
-- (text, JSON array of first, last), $7 root, $8 artifact, $9 digest (text). Result: nothing.
-- Privilege: dbagent_part. Versions: 14-18.
SELECT audit.record_seal(pg_catalog.format('%I.%I', $1::pg_catalog.text, $10::pg_catalog.text), $2::pg_catalog.int4, $3::pg_catalog.text::pg_catalog.timestamp,
    $4::pg_catalog.text::pg_catalog.timestamp, $5::pg_catalog.int8, $6::pg_catalog.text::pg_catalog.jsonb,
    $7::pg_catalog.text, $8::pg_catalog.text, $9::pg_catalog.text)::pg_catalog.text
