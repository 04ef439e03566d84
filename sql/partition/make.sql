-- Makes a partition.
-- Parameters: $1 schema, $2 parent, $3 name (text), $4 first day, $5 first day after (date, UTC).
-- Result: rows moved out of the default partition (int8). Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.make_partition($1, $2, $3, $4, $5)
