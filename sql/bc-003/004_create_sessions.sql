-- BC-003 004: who is signed in.
--
-- purpose     table sessions, with row-level security
-- parameters  bc003.user_id and bc003.session_token_hash, settings of the session that the application makes with
--             set_config(…, is_local => true) in each transaction
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- Row-level security lets the application see the rows of the user it acts for, and the one row of the token it was
-- shown. The owner is not held by it, nor is a role with BYPASSRLS: pg_dump by any other role fails rather than store
-- half a table.

CREATE TABLE public.sessions (
    id            uuid        NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid        NOT NULL,
    token_hash    varchar(64) NOT NULL,
    ip_address    varchar(45),
    user_agent    varchar(500),
    created_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at  timestamptz NOT NULL DEFAULT now(),
    expires_at    timestamptz NOT NULL DEFAULT now() + interval '12 hours',
    revoked_at    timestamptz,
    revoke_reason varchar(50),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT sessions_pkey PRIMARY KEY (id),
    CONSTRAINT sessions_token_hash_key UNIQUE (token_hash),
    CONSTRAINT sessions_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT sessions_token_hash_check CHECK (token_hash ~ '^[0-9a-f]{64}$'),
    CONSTRAINT sessions_expires_at_check CHECK (expires_at > created_at),
    CONSTRAINT sessions_revoked_check CHECK ((revoked_at IS NULL) = (revoke_reason IS NULL))
);

ALTER TABLE public.sessions ENABLE ROW LEVEL SECURITY;

CREATE POLICY sessions_own ON public.sessions
    USING (user_id = nullif(current_setting('bc003.user_id', true), '')::uuid);

CREATE POLICY sessions_by_token ON public.sessions FOR SELECT
    USING (token_hash = nullif(current_setting('bc003.session_token_hash', true), ''));

COMMENT ON TABLE public.sessions
    IS 'Sessions of signed-in users; row-level security shows the application those of one user';
COMMENT ON COLUMN public.sessions.id IS 'Identity; audit rows name it';
COMMENT ON COLUMN public.sessions.user_id IS 'Who is signed in';
COMMENT ON COLUMN public.sessions.token_hash
    IS 'SHA-256 of the token, lower-case hexadecimal; the token itself is never stored';
COMMENT ON COLUMN public.sessions.ip_address IS 'Where the session was opened from';
COMMENT ON COLUMN public.sessions.user_agent IS 'Browser that opened it';
COMMENT ON COLUMN public.sessions.created_at IS 'When it was opened';
COMMENT ON COLUMN public.sessions.last_seen_at IS 'When it was last used';
COMMENT ON COLUMN public.sessions.expires_at IS 'When it ends by itself';
COMMENT ON COLUMN public.sessions.revoked_at
    IS 'When it was ended early; a trigger does so when the account is locked or the password changes';
COMMENT ON COLUMN public.sessions.revoke_reason IS 'Why it was ended early';
COMMENT ON COLUMN public.sessions.updated_at IS 'When the row last changed; set by a trigger';
