-- BC-003 008: the rules, as rows.
--
-- purpose     table security_policies, with the rules the application starts from
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- The trigger that locks accounts reads account_lockout here: a rule that is not enabled does not lock.

CREATE TABLE public.security_policies (
    id          uuid         NOT NULL DEFAULT gen_random_uuid(),
    name        varchar(100) NOT NULL,
    description text,
    settings    jsonb        NOT NULL,
    enabled     boolean      NOT NULL DEFAULT true,
    updated_by  uuid,
    created_at  timestamptz  NOT NULL DEFAULT now(),
    updated_at  timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT security_policies_pkey PRIMARY KEY (id),
    CONSTRAINT security_policies_name_key UNIQUE (name),
    CONSTRAINT security_policies_updated_by_fkey
        FOREIGN KEY (updated_by) REFERENCES public.users (id) ON DELETE SET NULL,
    CONSTRAINT security_policies_settings_check CHECK (jsonb_typeof(settings) = 'object'),
    CONSTRAINT security_policies_lockout_check CHECK (
        name <> 'account_lockout'
        OR ((settings ->> 'max_failed_attempts')::integer BETWEEN 1 AND 100
            AND (settings ->> 'lock_minutes')::integer BETWEEN 1 AND 100000) IS TRUE)
);

INSERT INTO public.security_policies (id, name, description, settings, created_at, updated_at)
SELECT id::uuid, name, description, settings::jsonb, '2025-01-01 00:00:00+00', '2025-01-01 00:00:00+00'
FROM (VALUES
    ('00000000-0000-4000-a003-000000000001', 'account_lockout', 'Failed logins in a row that lock an account',
     '{"max_failed_attempts": 5, "lock_minutes": 30}'),
    ('00000000-0000-4000-a003-000000000002', 'password_rules', 'Length, age and reuse of passwords',
     '{"min_length": 12, "max_age_days": 90, "history": 10}'),
    ('00000000-0000-4000-a003-000000000003', 'session_lifetime', 'How long a session lasts, used and unused',
     '{"hours": 12, "idle_minutes": 60}'),
    ('00000000-0000-4000-a003-000000000004', 'key_rotation', 'How old an encryption or signing key may become',
     '{"max_age_days": 90}')
) AS shipped (id, name, description, settings);

COMMENT ON TABLE public.security_policies IS 'Security rules the application and the triggers follow';
COMMENT ON COLUMN public.security_policies.id IS 'Identity';
COMMENT ON COLUMN public.security_policies.name IS 'Name the rule is looked up by';
COMMENT ON COLUMN public.security_policies.description IS 'For people';
COMMENT ON COLUMN public.security_policies.settings IS 'The rule''s parameters, an object';
COMMENT ON COLUMN public.security_policies.enabled IS 'Whether the rule is in force';
COMMENT ON COLUMN public.security_policies.updated_by IS 'Who changed it last';
COMMENT ON COLUMN public.security_policies.created_at IS 'When the row was made';
COMMENT ON COLUMN public.security_policies.updated_at IS 'When the row last changed; set by a trigger';
