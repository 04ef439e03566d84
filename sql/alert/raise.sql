-- Keeps a finding and the alert about it, unless an alert about the same is open already.
-- Parameters: $1 alert_id, $2 run_id (text), $3 chain (text), $4 kind (text), $5 bad rows (int8), $6 finding, $7 payload (text, JSON).
-- Result: alert_id (text) of the new alert, or of the open one. Privilege: SELECT, INSERT on audit.findings and audit.alert_outbox.
-- Versions: 14-18.
WITH same AS (
    SELECT o.alert_id FROM audit.alert_outbox o
    WHERE o.acknowledged_at IS NULL AND o.kind = $4::pg_catalog.text AND o.payload -> 'chain' = pg_catalog.to_jsonb($3::pg_catalog.text)
      AND (o.payload -> 'first_bad') = ($7::pg_catalog.text::pg_catalog.jsonb -> 'first_bad')
    ORDER BY o.raised_at LIMIT 1
), found AS (
    INSERT INTO audit.findings (run_id, chain, kind, bad_rows, finding)
    SELECT $2::pg_catalog.text::pg_catalog.uuid, $3::pg_catalog.text, $4::pg_catalog.text, $5::pg_catalog.int8,
           $6::pg_catalog.text::pg_catalog.jsonb
    ON CONFLICT DO NOTHING
), raised AS (
    INSERT INTO audit.alert_outbox (alert_id, run_id, kind, severity, payload)
    SELECT $1::pg_catalog.text::pg_catalog.uuid, $2::pg_catalog.text::pg_catalog.uuid, $4::pg_catalog.text,
           $7::pg_catalog.text::pg_catalog.jsonb ->> 'severity', $7::pg_catalog.text::pg_catalog.jsonb
    WHERE NOT EXISTS (SELECT FROM same)
    ON CONFLICT DO NOTHING
)
SELECT COALESCE((SELECT alert_id FROM same), $1::pg_catalog.text::pg_catalog.uuid)::pg_catalog.text
