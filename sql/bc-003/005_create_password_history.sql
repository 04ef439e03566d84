-- BC-003 005: passwords that were, so that they are not chosen again.
--
-- purpose     table password_history, with row-level security
-- parameters  bc003.user_id, a setting of the session (see 004)
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- Rows are written by a trigger on users only; the application reads those of the user it acts for and compares with
-- bcrypt itself.

CREATE TABLE public.password_history (
    id            uuid         NOT NULL DEFAULT gen_random_uuid(),
    user_id       uuid         NOT NULL,
    password_hash varchar(255) NOT NULL,
    set_at        timestamptz  NOT NULL,
    replaced_at   timestamptz  NOT NULL DEFAULT now(),
    CONSTRAINT password_history_pkey PRIMARY KEY (id),
    CONSTRAINT password_history_user_id_fkey FOREIGN KEY (user_id) REFERENCES public.users (id) ON DELETE CASCADE,
    CONSTRAINT password_history_password_hash_check CHECK (password_hash ~ '^\$2[aby]\$[0-9]{2}\$[./A-Za-z0-9]{53}$')
);

ALTER TABLE public.password_history ENABLE ROW LEVEL SECURITY;

CREATE POLICY password_history_own ON public.password_history FOR SELECT
    USING (user_id = nullif(current_setting('bc003.user_id', true), '')::uuid);

COMMENT ON TABLE public.password_history
    IS 'Replaced password hashes; row-level security shows the application those of one user';
COMMENT ON COLUMN public.password_history.id IS 'Identity';
COMMENT ON COLUMN public.password_history.user_id IS 'Whose password it was';
COMMENT ON COLUMN public.password_history.password_hash IS 'bcrypt, as it stood in users';
COMMENT ON COLUMN public.password_history.set_at IS 'When it was chosen';
COMMENT ON COLUMN public.password_history.replaced_at IS 'When it was replaced';
