-- Begins the conversion of a table
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_begin($1, $2)::text
