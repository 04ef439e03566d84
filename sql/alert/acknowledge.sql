-- Says that alerts were heard.
-- Parameters: $1 alert_id (text; NULL: all that are open), $2 by whom, $3 note (text). Result: alert_id (text) of each.
-- Privilege: SELECT and UPDATE of the three columns on audit.alert_outbox. Versions: 14-18.
UPDATE audit.alert_outbox SET acknowledged_at = pg_catalog.clock_timestamp(), acknowledged_by = $2::pg_catalog.text,
    note = $3::pg_catalog.text
WHERE acknowledged_at IS NULL AND ($1::pg_catalog.text IS NULL OR alert_id = $1::pg_catalog.text::pg_catalog.uuid)
RETURNING alert_id::pg_catalog.text
