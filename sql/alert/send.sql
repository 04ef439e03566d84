-- Sends one alert of the outbox.
-- Parameters: $1 alert_id (text). Result: sent (bool): false when it is acknowledged or unknown.
-- Privilege: EXECUTE on public.alert_audit_log_tampering. Versions: 14-18.
SELECT public.alert_audit_log_tampering($1::pg_catalog.text::pg_catalog.uuid)
