-- Applies changes that the journal of a conversion holds to the table that is not in use.
-- Parameters: $1 schema, $2 name (text), $3 at most so many (int4). Result: entries applied (int8).
-- Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.convert_catch_up($1, $2, $3)
