-- Whether an instant lies so far back that the trigger takes no row of before it any more.
-- Parameters: $1 the instant (text, as PostgreSQL reads timestamps, UTC). Result: over (bool), the first instant at which it does
-- (text). Privilege: none. Versions: 14-18.
SELECT i.at + INTERVAL '1 hour' < pg_catalog.timezone('UTC', pg_catalog.clock_timestamp()),
       pg_catalog.to_char(i.at + INTERVAL '1 hour', 'YYYY-MM-DD HH24:MI:SS')
FROM (SELECT $1::pg_catalog.text::pg_catalog.timestamp AS at) i
