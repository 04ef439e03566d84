-- What the database says of seals: a hint, which the signed objects in the repositories confirm or not.
-- Parameters: none. Result: partition (text, quoted), number (int4), digest (text), is_there (bool), is_pruned (bool).
-- Privilege: SELECT on audit.seals. Versions: 14-18.
SELECT partition, number, digest::pg_catalog.text, pg_catalog.to_regclass(partition) IS NOT NULL, pruned_at IS NOT NULL
FROM audit.seals ORDER BY number
