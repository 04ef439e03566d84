-- Chains the next rows of a log that is not chained yet.
-- Parameters: $1 how many at most (int4), $2 those that came late (bool). Result: how many (int8).
-- Privilege: superuser. Versions: 14-18.
SELECT audit.backfill($1::pg_catalog.int4, $2::pg_catalog.bool)
