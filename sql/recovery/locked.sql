-- What transactions that had not ended where recovery is paused keep from being read: in recovery only replay takes this
-- lock (manual, "Hot Standby"). What such a transaction made itself is nobody else's to read, and is not listed.
-- Parameters: none. Result: name text, quoted; of another database, the relation's number and the database.
-- Privilege: none. Versions: 14-18.
SELECT CASE WHEN c.oid IS NOT NULL THEN pg_catalog.format('%I.%I', n.nspname, c.relname)
            ELSE pg_catalog.format('relation %s of the database %I', l.relation, d.datname) END AS name
FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_database d ON d.oid = l.database
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation AND (l.database = 0 OR d.datname = pg_catalog.current_database())
LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
  AND (c.oid IS NULL AND d.datname <> pg_catalog.current_database() OR c.relkind <> 't')
ORDER BY 1
