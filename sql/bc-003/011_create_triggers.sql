-- BC-003 011: eight trigger functions and the triggers that call them.
--
-- purpose     1 set_updated_at            a changed row says when it changed
--             2 normalise_email           login names are compared trimmed and in lower case
--             3 remember_password         a replaced password goes into password_history
--             4 grant_default_role        a new user is a viewer
--             5 lock_after_failed_logins  failures in a row lock the account
--             6 record_lock_event         locking and unlocking is a security event
--             7 revoke_sessions           a locked account or a new password ends the open sessions
--             8 protect_audit_rows        the audit log is append-only, for its owner too
-- privilege   owner of the database
-- versions    PostgreSQL 14 to 18
--
-- Comparisons use IS DISTINCT FROM: with <> a change from or to NULL would pass unseen. Functions that write where the
-- caller may not (row-level security, missing privileges) are SECURITY DEFINER; all have a fixed search_path and name
-- their schemas. The hash chain's trigger is not among them: it comes with the agent's schema audit.
-- Whoever must move or remove audit rows as their owner (out of the default partition) disables
-- audit_logs_protect_rows on that partition in the same transaction.

CREATE FUNCTION public.set_updated_at() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.updated_at := now();
    RETURN NEW;
END
$$;

CREATE FUNCTION public.normalise_email() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.email := lower(btrim(NEW.email));
    RETURN NEW;
END
$$;

CREATE FUNCTION public.remember_password() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.password_history (user_id, password_hash, set_at, replaced_at)
    VALUES (OLD.id, OLD.password_hash, OLD.password_changed_at, now());
    NEW.password_changed_at := now();
    RETURN NEW;
END
$$;

CREATE FUNCTION public.grant_default_role() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.user_roles (user_id, role_id)
    SELECT NEW.id, roles.id FROM public.roles WHERE roles.name = 'viewer';
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the default role viewer is missing from table roles';
    END IF;
    RETURN NULL;
END
$$;

CREATE FUNCTION public.lock_after_failed_logins() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    failures_that_lock integer;
    lock_for interval;
BEGIN
    IF NEW.success THEN
        UPDATE public.users SET failed_login_attempts = 0, last_login_at = NEW.attempted_at
        WHERE email = NEW.email AND status = 'active';
        RETURN NULL;
    END IF;
    -- Without the rule both stay NULL, and no comparison with NULL locks.
    SELECT (settings ->> 'max_failed_attempts')::integer, make_interval(mins => (settings ->> 'lock_minutes')::integer)
    INTO failures_that_lock, lock_for
    FROM public.security_policies WHERE name = 'account_lockout' AND enabled;
    UPDATE public.users
    SET failed_login_attempts = failed_login_attempts + 1,
        status = CASE WHEN failed_login_attempts + 1 >= failures_that_lock THEN 'locked' ELSE status END,
        locked_until = CASE WHEN failed_login_attempts + 1 >= failures_that_lock THEN now() + lock_for END
    WHERE email = NEW.email AND status = 'active';
    RETURN NULL;
END
$$;

CREATE FUNCTION public.record_lock_event() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    INSERT INTO public.security_events (event_type, severity, user_id, description, details)
    VALUES (CASE WHEN NEW.status = 'locked' THEN 'account_locked' ELSE 'account_unlocked' END,
            CASE WHEN NEW.status = 'locked' THEN 'high' ELSE 'low' END,
            NEW.id, 'status changed from ' || OLD.status || ' to ' || NEW.status,
            jsonb_build_object('failed_login_attempts', NEW.failed_login_attempts, 'locked_until', NEW.locked_until));
    RETURN NULL;
END
$$;

CREATE FUNCTION public.revoke_sessions() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE public.sessions
    SET revoked_at = now(),
        revoke_reason = CASE WHEN OLD.status IS DISTINCT FROM NEW.status THEN 'account_' || NEW.status
                             ELSE 'password_changed' END
    WHERE user_id = NEW.id AND revoked_at IS NULL AND expires_at > now();
    RETURN NULL;
END
$$;

CREATE FUNCTION public.protect_audit_rows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: the audit log is append-only', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END
$$;

REVOKE ALL ON FUNCTION public.set_updated_at(), public.normalise_email(), public.remember_password(),
    public.grant_default_role(), public.lock_after_failed_logins(), public.record_lock_event(),
    public.revoke_sessions(), public.protect_audit_rows() FROM PUBLIC;

CREATE TRIGGER users_set_updated_at BEFORE UPDATE ON public.users
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER roles_set_updated_at BEFORE UPDATE ON public.roles
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER permissions_set_updated_at BEFORE UPDATE ON public.permissions
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER sessions_set_updated_at BEFORE UPDATE ON public.sessions
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.set_updated_at();
CREATE TRIGGER security_policies_set_updated_at BEFORE UPDATE ON public.security_policies
    FOR EACH ROW WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION public.set_updated_at();

CREATE TRIGGER users_normalise_email BEFORE INSERT OR UPDATE OF email ON public.users
    FOR EACH ROW EXECUTE FUNCTION public.normalise_email();
CREATE TRIGGER login_attempts_normalise_email BEFORE INSERT ON public.login_attempts
    FOR EACH ROW EXECUTE FUNCTION public.normalise_email();

CREATE TRIGGER users_remember_password BEFORE UPDATE OF password_hash ON public.users
    FOR EACH ROW WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash)
    EXECUTE FUNCTION public.remember_password();

CREATE TRIGGER users_grant_default_role AFTER INSERT ON public.users
    FOR EACH ROW EXECUTE FUNCTION public.grant_default_role();

CREATE TRIGGER login_attempts_lock AFTER INSERT ON public.login_attempts
    FOR EACH ROW EXECUTE FUNCTION public.lock_after_failed_logins();

CREATE TRIGGER users_record_lock_event AFTER UPDATE ON public.users
    FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status AND 'locked' IN (OLD.status, NEW.status))
    EXECUTE FUNCTION public.record_lock_event();

CREATE TRIGGER users_revoke_sessions AFTER UPDATE ON public.users
    FOR EACH ROW WHEN (OLD.password_hash IS DISTINCT FROM NEW.password_hash
        OR (OLD.status IS DISTINCT FROM NEW.status AND NEW.status <> 'active'))
    EXECUTE FUNCTION public.revoke_sessions();

CREATE TRIGGER audit_logs_protect_rows BEFORE UPDATE OR DELETE ON public.audit_logs
    FOR EACH ROW EXECUTE FUNCTION public.protect_audit_rows();
CREATE TRIGGER audit_logs_protect_table BEFORE TRUNCATE ON public.audit_logs
    FOR EACH STATEMENT EXECUTE FUNCTION public.protect_audit_rows();
