-- Gives the partitioned table the name, in one short transaction.
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_swap($1, $2)::text
