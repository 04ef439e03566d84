-- BC-003 001: the people who may sign in, and what their authentication needs.
--
-- purpose     table users; extension pgcrypto; nobody but the owner creates objects in schema public
-- apply       in the order of the file numbers, into an empty database, each file in one transaction
--             (psql -X -v ON_ERROR_STOP=1 --single-transaction -f FILE); a second run fails and changes nothing
-- privilege   owner of the database; the role that applies these files owns the tables and the trigger functions, so
--             let it be one that cannot log in rather than a superuser
-- versions    PostgreSQL 14 to 18
--
-- users.mfa_secret is encrypted by the application (pgp_sym_encrypt of pgcrypto) with a key that never reaches the
-- server's files: a dump, a base backup and a WAL segment hold ciphertext only.

REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- A server without the contrib modules still takes the schema: only the application calls pgcrypto.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_available_extensions WHERE name = 'pgcrypto') THEN
        CREATE EXTENSION IF NOT EXISTS pgcrypto SCHEMA public;
    ELSE
        RAISE WARNING 'extension pgcrypto is not available: the application cannot encrypt users.mfa_secret here';
    END IF;
END
$$;

CREATE TABLE public.users (
    id                    uuid         NOT NULL DEFAULT gen_random_uuid(),
    email                 varchar(255) NOT NULL,
    first_name            varchar(100),
    last_name             varchar(100),
    password_hash         varchar(255) NOT NULL,
    password_changed_at   timestamptz  NOT NULL DEFAULT now(),
    mfa_enabled           boolean      NOT NULL DEFAULT false,
    mfa_secret            bytea,
    status                varchar(20)  NOT NULL DEFAULT 'active',
    failed_login_attempts integer      NOT NULL DEFAULT 0,
    locked_until          timestamptz,
    last_login_at         timestamptz,
    profile               jsonb        NOT NULL DEFAULT '{}',
    created_at            timestamptz  NOT NULL DEFAULT now(),
    updated_at            timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_email_key UNIQUE (email),
    CONSTRAINT users_email_check CHECK (email ~ '^[^@[:space:]]+@[^@[:space:]]+$'),
    CONSTRAINT users_password_hash_check CHECK (password_hash ~ '^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$'),
    CONSTRAINT users_mfa_check CHECK (NOT mfa_enabled OR mfa_secret IS NOT NULL),
    CONSTRAINT users_status_check CHECK (status IN ('invited', 'active', 'locked', 'disabled')),
    CONSTRAINT users_failed_login_attempts_check CHECK (failed_login_attempts >= 0),
    CONSTRAINT users_locked_until_check CHECK (locked_until IS NULL OR status = 'locked')
);

COMMENT ON TABLE public.users IS 'People who may sign in; one row each, never reused for another person';
COMMENT ON COLUMN public.users.id IS 'Stable identity; audit rows name it even after the user is gone';
COMMENT ON COLUMN public.users.email IS 'Login name, kept trimmed and in lower case by a trigger';
COMMENT ON COLUMN public.users.first_name IS 'Given name';
COMMENT ON COLUMN public.users.last_name IS 'Family name';
COMMENT ON COLUMN public.users.password_hash IS 'bcrypt, made by the application ($2a$, $2b$ or $2y$)';
COMMENT ON COLUMN public.users.password_changed_at IS 'When password_hash was last replaced; set by a trigger';
COMMENT ON COLUMN public.users.mfa_enabled IS 'Whether a second factor is asked for; needs mfa_secret';
COMMENT ON COLUMN public.users.mfa_secret IS 'TOTP secret, encrypted by the application with pgcrypto; never plaintext';
COMMENT ON COLUMN public.users.status IS 'invited, active, locked or disabled';
COMMENT ON COLUMN public.users.failed_login_attempts
    IS 'Failures since the last success; kept by a trigger on login_attempts';
COMMENT ON COLUMN public.users.locked_until IS 'When the application may unlock the account; NULL means by hand only';
COMMENT ON COLUMN public.users.last_login_at IS 'Last successful login';
COMMENT ON COLUMN public.users.profile IS 'What the application shows about the person';
COMMENT ON COLUMN public.users.created_at IS 'When the row was made';
COMMENT ON COLUMN public.users.updated_at IS 'When the row last changed; set by a trigger';
