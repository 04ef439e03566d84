-- 052: the canonical bytes of an audit row, profile dbagent/audit_logs/v1.
--
-- purpose     audit.row_bytes  the row's fields, byte for byte the tuple body of a binary COPY of the same columns with
--                              client_encoding UTF8: int32 length and bytes of each, -1 for NULL
--             audit.row_hash   lower-case hexadecimal SHA-256 of the profile's name, a line end and those bytes
-- privilege   owner of schema audit; to call: dbagent_verify, which holds them against the golden rows
-- versions    PostgreSQL 14 to 18
--
-- No setting of a session can change a byte: uuid_send, boolsend and timestamp_send know none, and text goes through
-- convert_to. jsonb_send and textsend are not used, because they follow client_encoding. timestamp is microseconds since
-- 2000-01-01 (PostgreSQL, src/include/datatype/timestamp.h).

CREATE FUNCTION audit.text_field(value text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(int4send(octet_length(convert_to(value, 'UTF8'))) || convert_to(value, 'UTF8'), '\xffffffff'::bytea);

CREATE FUNCTION audit.row_bytes(
    id uuid, user_id uuid, session_id uuid, action text, resource text, resource_id text, details jsonb,
    ip_address text, user_agent text, success boolean, error_code text, error_message text, recorded_at timestamp,
    previous_hash text)
RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce('\x00000010'::bytea || uuid_send(id), '\xffffffff'::bytea)
    || coalesce('\x00000010'::bytea || uuid_send(user_id), '\xffffffff'::bytea)
    || coalesce('\x00000010'::bytea || uuid_send(session_id), '\xffffffff'::bytea)
    || audit.text_field(action)
    || audit.text_field(resource)
    || audit.text_field(resource_id)
    || coalesce(int4send(octet_length(convert_to(details::text, 'UTF8')) + 1) || '\x01'::bytea
        || convert_to(details::text, 'UTF8'), '\xffffffff'::bytea)
    || audit.text_field(ip_address)
    || audit.text_field(user_agent)
    || coalesce('\x00000001'::bytea || boolsend(success), '\xffffffff'::bytea)
    || audit.text_field(error_code)
    || audit.text_field(error_message)
    || coalesce('\x00000008'::bytea || timestamp_send(recorded_at), '\xffffffff'::bytea)
    || audit.text_field(previous_hash);

CREATE FUNCTION audit.row_hash(
    id uuid, user_id uuid, session_id uuid, action text, resource text, resource_id text, details jsonb,
    ip_address text, user_agent text, success boolean, error_code text, error_message text, recorded_at timestamp,
    previous_hash text)
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN encode(sha256('\x64626167656e742f61756469745f6c6f67732f76310a'::bytea
    || audit.row_bytes(id, user_id, session_id, action, resource, resource_id, details, ip_address, user_agent, success,
        error_code, error_message, recorded_at, previous_hash)), 'hex');

DO $$
DECLARE
    made regprocedure;
BEGIN
    FOR made IN SELECT p.oid FROM pg_catalog.pg_proc p
        WHERE p.pronamespace = 'audit'::regnamespace AND p.proname IN ('text_field', 'row_bytes', 'row_hash')
    LOOP
        EXECUTE format('ALTER FUNCTION %s OWNER TO audit_owner', made);
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', made);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO dbagent_verify', made);
    END LOOP;
END
$$;
