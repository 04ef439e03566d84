-- Copies the rows that belong to no month into the default partition.
-- Parameters: $1 schema, $2 name (text). Result: rows (int8). Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_rest($1, $2)
