-- 056: chaining a log that has rows.
--
-- purpose     audit.backfill(batch, stragglers) gives the next rows their place, their previous_hash and their hash, in the order of
--             recorded_at and id; with stragglers those that were passed over because they came late. Returns how many.
-- privilege   to install: member of audit_owner; to call: superuser (it sets session_replication_role)
-- versions    PostgreSQL 14 to 18
--
-- For a log without the chain's trigger only: with it, every row has its place. Each call is one transaction, so that it
-- can be gone on with after a crash: what has a place is done. Rows in the range of a pinned formula (053) keep their hashes
-- and have their places already; one that comes there later would be hashed by the wrong formula, and is refused.

CREATE FUNCTION audit.backfill(batch integer, stragglers boolean) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET session_replication_role = replica AS $$
DECLARE
    head audit.chain_head;
    entry public.audit_logs;
    last_at timestamp;
    last_id uuid;
    pinned_until CONSTANT timestamp := (SELECT max(p.until_at) FROM audit.profiles p);
    done bigint := 0;
BEGIN
    IF EXISTS (SELECT FROM pg_trigger WHERE tgrelid = 'public.audit_logs'::regclass AND tgname = 'zz_audit_chain') THEN
        RAISE EXCEPTION 'the audit log is chained already' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    SELECT * INTO STRICT head FROM audit.chain_head WHERE chain = 'audit_logs' FOR UPDATE;
    -- The newest time that has a place, which is not the last place: late rows are chained after newer ones.
    SELECT recorded_at, id INTO last_at, last_id FROM audit.chain_seq s ORDER BY s.recorded_at DESC, s.id DESC LIMIT 1;
    FOR entry IN EXECUTE CASE
        WHEN stragglers THEN 'SELECT a.* FROM public.audit_logs a WHERE NOT EXISTS (SELECT FROM audit.chain_seq s
            WHERE s.recorded_at = a.recorded_at AND s.id = a.id) ORDER BY a.recorded_at, a.id LIMIT $3'
        WHEN last_at IS NULL THEN 'SELECT a.* FROM public.audit_logs a ORDER BY a.recorded_at, a.id LIMIT $3'
        ELSE 'SELECT a.* FROM public.audit_logs a WHERE (a.recorded_at, a.id) > ($1, $2) ORDER BY a.recorded_at, a.id LIMIT $3'
        END USING last_at, last_id, batch
    LOOP
        IF entry.recorded_at < pinned_until THEN
            RAISE EXCEPTION 'row % came into the range of a pinned formula, which ends at %', entry.id, pinned_until
                USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'Find out who writes rows of times that are over; move or remove them, and run dbagent audit backfill again.';
        END IF;
        entry.previous_hash := head.hash;
        entry.hash := audit.row_hash(entry.id, entry.user_id, entry.session_id, entry.action, entry.resource,
            entry.resource_id, entry.details, entry.ip_address, entry.user_agent, entry.success, entry.error_code,
            entry.error_message, entry.recorded_at, entry.previous_hash);
        UPDATE public.audit_logs SET previous_hash = entry.previous_hash, hash = entry.hash
        WHERE id = entry.id AND recorded_at = entry.recorded_at;
        head.seq := head.seq + 1;
        head.hash := entry.hash;
        INSERT INTO audit.chain_seq (seq, id, recorded_at, hash) VALUES (head.seq, entry.id, entry.recorded_at, head.hash);
        done := done + 1;
    END LOOP;
    UPDATE audit.chain_head SET seq = head.seq, hash = head.hash WHERE chain = 'audit_logs' AND done > 0;
    RETURN done;
END
$$;

ALTER FUNCTION audit.backfill(integer, boolean) OWNER TO audit_owner;
REVOKE ALL ON FUNCTION audit.backfill(integer, boolean) FROM PUBLIC;
