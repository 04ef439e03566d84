-- Finds from which month on a table that is being converted has rows.
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_range($1, $2)::text
