-- BC-003 009: every try to sign in, for half a year.
--
-- purpose     table login_attempts, partitioned by month; last month, this one and three ahead, and a default partition
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- The address is what was typed, not a reference: most attacks name accounts that do not exist.

CREATE TABLE public.login_attempts (
    id             uuid         NOT NULL DEFAULT gen_random_uuid(),
    email          varchar(255) NOT NULL,
    ip_address     varchar(45),
    user_agent     varchar(500),
    success        boolean      NOT NULL,
    failure_reason varchar(50),
    attempted_at   timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT login_attempts_pkey PRIMARY KEY (id, attempted_at),
    CONSTRAINT login_attempts_failure_reason_check CHECK (success = (failure_reason IS NULL))
) PARTITION BY RANGE (attempted_at);

CREATE TABLE public.login_attempts_default PARTITION OF public.login_attempts DEFAULT;

DO $$
DECLARE
    this_month CONSTANT timestamp := date_trunc('month', timezone('UTC', now()));
    month timestamp;
BEGIN
    FOR ahead IN -1..3 LOOP
        month := this_month + make_interval(months => ahead);
        EXECUTE format(
            'CREATE TABLE public.login_attempts_%s PARTITION OF public.login_attempts FOR VALUES FROM (%L) TO (%L)',
            to_char(month, 'YYYY_MM'), to_char(month, 'YYYY-MM-DD 00:00:00+00'),
            to_char(month + interval '1 month', 'YYYY-MM-DD 00:00:00+00'));
    END LOOP;
END
$$;

COMMENT ON TABLE public.login_attempts IS 'Tries to sign in, partitioned by month in UTC, kept 6 months';
COMMENT ON COLUMN public.login_attempts.id IS 'Identity; the partition key completes the primary key';
COMMENT ON COLUMN public.login_attempts.email IS 'Login name that was typed, trimmed and in lower case';
COMMENT ON COLUMN public.login_attempts.ip_address IS 'Where it came from';
COMMENT ON COLUMN public.login_attempts.user_agent IS 'Browser it came from';
COMMENT ON COLUMN public.login_attempts.success IS 'Whether it succeeded';
COMMENT ON COLUMN public.login_attempts.failure_reason IS 'Why not; NULL exactly when it succeeded';
COMMENT ON COLUMN public.login_attempts.attempted_at IS 'When; partition key';
COMMENT ON TABLE public.login_attempts_default IS 'Rows of months that have no partition; should be empty';
