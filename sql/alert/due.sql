-- Alerts that were never sent, or that nobody has acknowledged for so long.
-- Parameters: $1 seconds since the last sending (float8). Result: alert_id (text), the oldest first.
-- Privilege: SELECT on audit.alert_outbox. Versions: 14-18.
SELECT alert_id::pg_catalog.text FROM audit.alert_outbox
WHERE acknowledged_at IS NULL
  AND (last_sent_at IS NULL OR last_sent_at <= pg_catalog.clock_timestamp() - $1::pg_catalog.float8 * INTERVAL '1 second')
ORDER BY raised_at
