-- The lock under which one agent at a time maintains the partitions of a database; held by the session.
-- Parameters: none. Result: locked (bool). Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_try_advisory_lock(1684173159, 1885434484)
