-- Drops a detached partition whose archive is recorded, its rows counted once more.
-- Parameters: $1 oid. Result: rows (int8). Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.drop_detached($1)
