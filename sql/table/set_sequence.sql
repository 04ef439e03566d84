-- Sets a sequence to a value.
-- Parameters: $1 the sequence as quoted SQL (text), $2 last_value (int8), $3 is_called. Result: the value.
-- Privilege: UPDATE on the sequence. Versions: 14-18.
SELECT pg_catalog.setval(($1::pg_catalog.text)::pg_catalog.regclass, $2, $3)
