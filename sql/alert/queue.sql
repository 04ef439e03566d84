-- How full the queue of notices is, from 0 to 1: it fills when a listener sits in a transaction, and then NOTIFY fails.
-- Parameters: none. Result: usage (float8). Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_notification_queue_usage()
