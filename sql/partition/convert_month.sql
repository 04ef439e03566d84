-- Copies a month of a table that is being converted.
-- Parameters: $1 schema, $2 name (text), $3 first day of the month. Result: rows (int8). Privilege: dbagent_part.
-- Versions: 14-18.
SELECT dbagent.convert_month($1, $2, $3)
