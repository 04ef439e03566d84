-- Goes back to the plain table.
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_undo($1, $2)::text
