-- BC-003 006: who did what, for three years.
--
-- purpose     table audit_logs, partitioned by month; last month, this one and three ahead, and a default partition
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- The columns, their types and their order are those of the hash profile dbagent/audit_logs/v1: the bytes of a binary
-- COPY of a row are what its hash is computed from. So no column is added or changed here: what the chain needs besides
-- (its head, its order) goes into side tables of schema audit, and hash and previous_hash are set by its trigger.
-- There is no foreign key to users or sessions: a row stays as it is when the user goes.
-- Premaking, archiving and dropping of partitions is the agent's work.

CREATE TABLE public.audit_logs (
    id            uuid      NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid,
    session_id    uuid,
    action        varchar(100),
    resource      varchar(200),
    resource_id   varchar(100),
    details       jsonb,
    ip_address    varchar(45),
    user_agent    varchar(500),
    success       boolean,
    error_code    varchar(50),
    error_message text,
    hash          varchar(64) NOT NULL,
    previous_hash varchar(64),
    recorded_at   timestamp   NOT NULL DEFAULT timezone('UTC', clock_timestamp()),
    CONSTRAINT audit_logs_pkey PRIMARY KEY (id, recorded_at),
    CONSTRAINT audit_logs_hash_check CHECK (hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT audit_logs_previous_hash_check CHECK (previous_hash ~ '^[0-9a-f]{64}$')
) PARTITION BY RANGE (recorded_at);

CREATE TABLE public.audit_logs_default PARTITION OF public.audit_logs DEFAULT;

DO $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', timezone('UTC', now()));
    month timestamp;
BEGIN
    FOR ahead IN -1..3 LOOP
        month := this_month + make_interval(months => ahead);
        EXECUTE format('CREATE TABLE public.audit_logs_%s PARTITION OF public.audit_logs FOR VALUES FROM (%L) TO (%L)',
            to_char(month, 'YYYY_MM'), to_char(month, 'YYYY-MM-DD'), to_char(month + interval '1 month', 'YYYY-MM-DD'));
    END LOOP;
END
$$;

COMMENT ON TABLE public.audit_logs
    IS 'Audit log: append-only, chained by hashes, partitioned by month in UTC, kept 36 months';
COMMENT ON COLUMN public.audit_logs.id IS 'Identity; the partition key completes the primary key';
COMMENT ON COLUMN public.audit_logs.user_id IS 'Who did it; NULL: nobody signed in';
COMMENT ON COLUMN public.audit_logs.session_id IS 'In which session';
COMMENT ON COLUMN public.audit_logs.action IS 'What was done, as resource.verb';
COMMENT ON COLUMN public.audit_logs.resource IS 'Kind of thing it was done to';
COMMENT ON COLUMN public.audit_logs.resource_id IS 'Which one';
COMMENT ON COLUMN public.audit_logs.details IS 'What changed, by kind of action';
COMMENT ON COLUMN public.audit_logs.ip_address IS 'Where the request came from';
COMMENT ON COLUMN public.audit_logs.user_agent IS 'Browser it came from';
COMMENT ON COLUMN public.audit_logs.success IS 'Whether it succeeded';
COMMENT ON COLUMN public.audit_logs.error_code IS 'Code of the failure';
COMMENT ON COLUMN public.audit_logs.error_message IS 'Message of the failure';
COMMENT ON COLUMN public.audit_logs.hash IS 'SHA-256 of the row and previous_hash, lower-case hexadecimal';
COMMENT ON COLUMN public.audit_logs.previous_hash IS 'hash of the row before; NULL in the first';
COMMENT ON COLUMN public.audit_logs.recorded_at IS 'When, in UTC; partition key';
COMMENT ON TABLE public.audit_logs_default IS 'Rows of months that have no partition; should be empty';
