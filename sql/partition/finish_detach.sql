-- Finishes a DETACH CONCURRENTLY that was cut off.
-- Parameters: $1 schema, $2 parent (text), $3 oid. Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.finish_detach($1, $2, $3)::text
