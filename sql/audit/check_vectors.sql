-- Which of the golden rows the installed functions hash to something else.
-- Parameters: $1 the rows (text, a JSON array). Result: name (text), expected, actual (text). No row: all as they must be.
-- Privilege: EXECUTE on audit.row_hash and audit.row_bytes. Versions: 14-18.
SELECT v ->> 'name', v ->> 'hash', h.hash
FROM pg_catalog.jsonb_array_elements($1::pg_catalog.text::pg_catalog.jsonb) v,
LATERAL (SELECT audit.row_hash((v ->> 'id')::pg_catalog.uuid, (v ->> 'user_id')::pg_catalog.uuid,
             (v ->> 'session_id')::pg_catalog.uuid, v ->> 'action', v ->> 'resource', v ->> 'resource_id',
             (v ->> 'details')::pg_catalog.jsonb, v ->> 'ip_address', v ->> 'user_agent', (v ->> 'success')::pg_catalog.bool,
             v ->> 'error_code', v ->> 'error_message', (v ->> 'recorded_at')::pg_catalog.timestamp,
             v ->> 'previous_hash') AS hash,
         pg_catalog.encode(audit.row_bytes((v ->> 'id')::pg_catalog.uuid, (v ->> 'user_id')::pg_catalog.uuid,
             (v ->> 'session_id')::pg_catalog.uuid, v ->> 'action', v ->> 'resource', v ->> 'resource_id',
             (v ->> 'details')::pg_catalog.jsonb, v ->> 'ip_address', v ->> 'user_agent', (v ->> 'success')::pg_catalog.bool,
             v ->> 'error_code', v ->> 'error_message', (v ->> 'recorded_at')::pg_catalog.timestamp,
             v ->> 'previous_hash'), 'hex') AS bytes) h
WHERE h.hash IS DISTINCT FROM v ->> 'hash' OR h.bytes IS DISTINCT FROM v ->> 'bytes'
