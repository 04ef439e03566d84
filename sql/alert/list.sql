-- Alerts, the newest first.
-- Parameters: $1 those that were acknowledged too (bool). Result: alert_id, kind, severity (text), raised_at (timestamptz),
-- sends (int4), last_sent_at, acknowledged_at (timestamptz), acknowledged_by, note, payload (text).
-- Privilege: SELECT on audit.alert_outbox. Versions: 14-18.
SELECT alert_id::pg_catalog.text, kind, severity, raised_at, sends, last_sent_at, acknowledged_at, acknowledged_by, note,
       payload::pg_catalog.text
FROM audit.alert_outbox WHERE $1::pg_catalog.bool OR acknowledged_at IS NULL ORDER BY raised_at DESC LIMIT 1000
