-- BC-003 007: what the security people should look at, for a year.
--
-- purpose     table security_events, partitioned by month; last month, this one and three ahead, and a default partition
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- As in audit_logs there is no foreign key to users: the event outlives the user. Bounds are written with their offset:
-- the partition key is a timestamptz, and the session's time zone would move them otherwise.

CREATE TABLE public.security_events (
    id          uuid        NOT NULL DEFAULT gen_random_uuid(),
    event_type  varchar(50) NOT NULL,
    severity    varchar(20) NOT NULL,
    user_id     uuid,
    session_id  uuid,
    description text,
    details     jsonb       NOT NULL DEFAULT '{}',
    ip_address  varchar(45),
    resolved_at timestamptz,
    detected_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT security_events_pkey PRIMARY KEY (id, detected_at),
    CONSTRAINT security_events_severity_check CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    CONSTRAINT security_events_resolved_at_check CHECK (resolved_at >= detected_at)
) PARTITION BY RANGE (detected_at);

CREATE TABLE public.security_events_default PARTITION OF public.security_events DEFAULT;

DO $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', timezone('UTC', now()));
    month timestamp;
BEGIN
    FOR ahead IN -1..3 LOOP
        month := this_month + make_interval(months => ahead);
        EXECUTE format(
            'CREATE TABLE public.security_events_%s PARTITION OF public.security_events FOR VALUES FROM (%L) TO (%L)',
            to_char(month, 'YYYY_MM'), to_char(month, 'YYYY-MM-DD 00:00:00+00'),
            to_char(month + interval '1 month', 'YYYY-MM-DD 00:00:00+00'));
    END LOOP;
END
$$;

COMMENT ON TABLE public.security_events IS 'Security events, partitioned by month in UTC, kept 12 months';
COMMENT ON COLUMN public.security_events.id IS 'Identity; the partition key completes the primary key';
COMMENT ON COLUMN public.security_events.event_type IS 'What happened, such as account_locked';
COMMENT ON COLUMN public.security_events.severity IS 'low, medium, high or critical';
COMMENT ON COLUMN public.security_events.user_id IS 'Whose account it concerns';
COMMENT ON COLUMN public.security_events.session_id IS 'Which session it concerns';
COMMENT ON COLUMN public.security_events.description IS 'For people';
COMMENT ON COLUMN public.security_events.details IS 'For programs';
COMMENT ON COLUMN public.security_events.ip_address IS 'Where it came from';
COMMENT ON COLUMN public.security_events.resolved_at IS 'When somebody dealt with it';
COMMENT ON COLUMN public.security_events.detected_at IS 'When it was noticed; partition key';
COMMENT ON TABLE public.security_events_default IS 'Rows of months that have no partition; should be empty';
