-- Notes that a detached partition stays as a table.
-- Parameters: $1 oid. Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.keep_detached($1)::text
