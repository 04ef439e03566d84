-- What time it is on the server.
-- Parameters: none. Result: timestamptz. Privilege: none. Versions: 14-18.
SELECT pg_catalog.clock_timestamp()
