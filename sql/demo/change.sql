-- Demo data, change: one row in a hundred becomes another, the same ones wherever it is done.
--
-- purpose     bc003_generator.change_one_per_cent(round, since) -> rows changed; for measuring increments
-- parameters  round: another number picks other rows; since (UTC): older audit rows, security events and login attempts
--             stay, so that closed partitions are untouched ('-infinity' scatters the changes over all of them)
-- apply       this file, the function, drop.sql
-- privilege   superuser: session_replication_role = replica also silences the trigger that protects audit rows, so the
--             audit log is tampered with afterwards. For benchmarks only.
-- versions    PostgreSQL 14 to 18

CREATE SCHEMA bc003_generator;

-- 655 of the 65,536 values of two bytes.
CREATE FUNCTION bc003_generator.is_picked(id uuid, round integer) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN pg_catalog.substr(pg_catalog.sha256(pg_catalog.uuid_send(id) || pg_catalog.int4send(round)), 1, 2) < '\x028f';

CREATE FUNCTION bc003_generator.change_one_per_cent(round integer, since timestamp) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET session_replication_role = replica AS $$
DECLARE
    mark CONSTANT jsonb := jsonb_build_object('round', round);
    changed bigint;
    total bigint := 0;
BEGIN
    UPDATE public.users SET profile = profile || mark, updated_at = updated_at + interval '1 day'
    WHERE bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;

    UPDATE public.sessions
    SET last_seen_at = last_seen_at + interval '1 minute', updated_at = updated_at + interval '1 minute'
    WHERE bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;

    UPDATE public.password_history SET replaced_at = replaced_at + interval '1 second'
    WHERE bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;

    UPDATE public.audit_logs SET details = details || mark
    WHERE recorded_at >= since AND bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;

    UPDATE public.security_events SET details = details || mark
    WHERE detected_at >= since AT TIME ZONE 'UTC' AND bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    total := total + changed;

    UPDATE public.login_attempts SET user_agent = 'round ' || round
    WHERE attempted_at >= since AT TIME ZONE 'UTC' AND bc003_generator.is_picked(id, round);
    GET DIAGNOSTICS changed = ROW_COUNT;
    RETURN total + changed;
END
$$;
