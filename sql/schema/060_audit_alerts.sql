-- 060: findings about the audit chain, and the alerts they raise.
--
-- purpose     audit.findings        what a verification found
--             audit.alert_outbox    what somebody has to be told, until somebody says that it was heard
--             alert_audit_log_tampering(alert)  sends one alert of the outbox to channel audit_tampering_detected
-- privilege   superuser, or owner of the database and member of audit_owner
-- versions    PostgreSQL 14 to 18
--
-- The row is committed first, the notice is sent by a transaction of its own: when the notification queue is full, the
-- COMMIT of whoever notifies fails, and the alert must not go with it. NOTIFY needs no privilege, so anybody can forge
-- one: a listener takes it as a hint and reads the outbox. A payload of 8000 bytes or more is refused by PostgreSQL; ours
-- stay within 4096, and one that would not is sent without its details.

CREATE TABLE audit.findings (
    finding_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id     uuid        NOT NULL,
    chain      text        NOT NULL,
    kind       text        NOT NULL CHECK (kind ~ '^[A-Z][A-Z_]{2,39}$'),
    found_at   timestamptz NOT NULL DEFAULT now(),
    bad_rows   bigint      NOT NULL CHECK (bad_rows >= 0),
    finding    jsonb       NOT NULL,
    UNIQUE (run_id, chain, kind)
);

CREATE TABLE audit.alert_outbox (
    alert_id        uuid        PRIMARY KEY,
    run_id          uuid        NOT NULL,
    kind            text        NOT NULL,
    severity        text        NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    payload         jsonb       NOT NULL,
    raised_at       timestamptz NOT NULL DEFAULT now(),
    sends           integer     NOT NULL DEFAULT 0,
    last_sent_at    timestamptz,
    acknowledged_at timestamptz,
    acknowledged_by text,
    note            text,
    CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL))
);
CREATE INDEX alert_outbox_open ON audit.alert_outbox (raised_at) WHERE acknowledged_at IS NULL;

CREATE FUNCTION public.alert_audit_log_tampering(alert uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    told jsonb;
BEGIN
    UPDATE audit.alert_outbox SET sends = sends + 1, last_sent_at = clock_timestamp()
    WHERE alert_id = alert AND acknowledged_at IS NULL
    RETURNING payload INTO told;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF octet_length(told::text) > 4096 THEN
        told := jsonb_build_object('severity', told -> 'severity', 'message', left(told ->> 'message', 200),
            'timestamp', told -> 'timestamp', 'alert_id', alert, 'kind', told -> 'kind', 'shortened', true);
    END IF;
    PERFORM pg_notify('audit_tampering_detected', told::text);
    RETURN true;
END
$$;

ALTER TABLE audit.findings OWNER TO audit_owner;
ALTER TABLE audit.alert_outbox OWNER TO audit_owner;
ALTER FUNCTION public.alert_audit_log_tampering(uuid) OWNER TO audit_owner;
REVOKE ALL ON audit.findings, audit.alert_outbox FROM PUBLIC;
REVOKE ALL ON FUNCTION public.alert_audit_log_tampering(uuid) FROM PUBLIC;
GRANT SELECT, INSERT ON audit.findings, audit.alert_outbox TO dbagent_verify;
GRANT UPDATE (acknowledged_at, acknowledged_by, note) ON audit.alert_outbox TO dbagent_verify;
GRANT EXECUTE ON FUNCTION public.alert_audit_log_tampering(uuid) TO dbagent_verify;

COMMENT ON TABLE audit.findings IS 'What verifications of the audit chain found, one row for each kind and run';
COMMENT ON TABLE audit.alert_outbox IS 'Alerts, repeated until they are acknowledged';
COMMENT ON FUNCTION public.alert_audit_log_tampering(uuid)
    IS 'Sends an alert of audit.alert_outbox to channel audit_tampering_detected; false when it is acknowledged or unknown';
