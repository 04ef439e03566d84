-- The formulas that are pinned for older rows.
-- Parameters: none. Result: name, definition, digest (text), whether the range that SQL goes by is the definition's: from_at and
-- until_at (text, ISO, UTC). Privilege: SELECT on audit.profiles. Versions: 14-18.
SELECT name, definition, digest::pg_catalog.text,
       pg_catalog.to_char(from_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), pg_catalog.to_char(until_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
FROM audit.profiles ORDER BY from_at, name
