-- Remembers the partitions of a table that are there.
-- Parameters: $1 schema (text), $2 name (text). Result: how many are new. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.see_partitions($1, $2)
