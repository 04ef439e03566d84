-- The conversion of a table, if one was begun.
-- Parameters: $1 schema, $2 name (text). Result: phase (copying, swapped), live and other as quoted SQL, journal as quoted
-- SQL, first_day, last_day (date). Privilege: dbagent_part. Versions: 14-18.
SELECT phase, live::regclass::text, other::regclass::text, pg_catalog.format('dbagent.%I', 'convert_journal_' || original),
       first_day, last_day
FROM dbagent.conversions WHERE schema_name = $1 AND table_name = $2
