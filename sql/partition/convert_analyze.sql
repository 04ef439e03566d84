-- Gathers statistics for the table that has the name now.
-- Parameters: $1 schema, $2 name (text). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_analyze($1, $2)::text
