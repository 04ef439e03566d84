-- Takes some places of a sealed partition that is gone out of the side table.
-- Parameters: $1 partition (text, quoted), $2 most (int4). Result: rows (int8), 0 when none is left.
-- Privilege: dbagent_part. Versions: 14-18.
SELECT audit.prune_sealed($1::pg_catalog.text, $2::pg_catalog.int4)
