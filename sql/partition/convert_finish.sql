-- Drops the plain table, once it was proven equal.
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_finish($1, $2)::text
