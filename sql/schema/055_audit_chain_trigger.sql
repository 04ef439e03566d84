-- 055: the trigger functions of the audit chain.
--
-- purpose     audit.chain_row   puts an inserted row at the end of the chain
--             audit.close_head  lets chain_head name the last row of a transaction that inserted several
-- privilege   superuser, or member of audit_owner
-- versions    PostgreSQL 14 to 18
--
-- In this order: 1 lock the head (an advisory lock and "the newest row" would fork the chain under REPEATABLE READ: there
-- the head's update ends in 40001, for the application to retry); 2 and 5 take the place in chain_seq, which refuses a
-- key that has one (ON CONFLICT DO NOTHING would move the head without a row); 3 refuse a time that is not now; 4 set
-- previous_hash and hash, whatever the application wrote there.
--
-- The head is written by the first row of a transaction and, when there were more, once more at its end: a row version
-- for every inserted row would have every later one search through all of them, quadratic work in a bulk load. In
-- between the chain's end is the newest row of chain_seq, which only this transaction can have added to.

CREATE FUNCTION audit.chain_row() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s' AS $$
DECLARE
    me CONSTANT xid8 := pg_current_xact_id();
    head audit.chain_head;
    last_seq bigint;
    last_hash text;
BEGIN
    SELECT * INTO head FROM audit.chain_head WHERE chain = 'audit_logs' FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the audit chain has no head' USING ERRCODE = 'object_not_in_prerequisite_state',
            HINT = 'Run dbagent audit install, then dbagent audit verify.';
    END IF;
    last_seq := head.seq;
    last_hash := head.hash;
    IF head.xact = me THEN
        SELECT seq, hash INTO last_seq, last_hash FROM audit.chain_seq ORDER BY seq DESC LIMIT 1;
        IF NOT FOUND THEN -- everything up to the head is sealed and gone, and our own rows were rolled back
            last_seq := head.seq;
            last_hash := head.hash;
        END IF;
    END IF;
    IF (NEW.recorded_at BETWEEN timezone('UTC', clock_timestamp()) - interval '1 hour'
                            AND timezone('UTC', clock_timestamp()) + interval '5 seconds') IS NOT TRUE THEN
        RAISE EXCEPTION 'an audit row is recorded when it happens: recorded_at % is not now', NEW.recorded_at
            USING ERRCODE = 'check_violation', HINT = 'Leave recorded_at to its default, which is the time in UTC.';
    END IF;
    NEW.previous_hash := last_hash;
    NEW.hash := audit.row_hash(NEW.id, NEW.user_id, NEW.session_id, NEW.action, NEW.resource, NEW.resource_id,
        NEW.details, NEW.ip_address, NEW.user_agent, NEW.success, NEW.error_code, NEW.error_message, NEW.recorded_at,
        NEW.previous_hash);
    INSERT INTO audit.chain_seq (seq, id, recorded_at, hash) VALUES (last_seq + 1, NEW.id, NEW.recorded_at, NEW.hash);
    IF head.xact IS DISTINCT FROM me THEN
        UPDATE audit.chain_head SET seq = last_seq + 1, hash = NEW.hash, xact = me WHERE chain = 'audit_logs';
    ELSIF head.seq = last_seq THEN -- the second row, or the first after SET CONSTRAINTS IMMEDIATE: close_head is called
        UPDATE audit.chain_head SET xact = me WHERE chain = 'audit_logs';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION audit.close_head() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    UPDATE audit.chain_head h SET seq = tip.seq, hash = tip.hash
    FROM (SELECT s.seq, s.hash FROM audit.chain_seq s ORDER BY s.seq DESC LIMIT 1) tip
    WHERE h.chain = NEW.chain AND h.seq < tip.seq;
    RETURN NULL;
END
$$;

ALTER FUNCTION audit.chain_row() OWNER TO audit_owner;
ALTER FUNCTION audit.close_head() OWNER TO audit_owner;
REVOKE ALL ON FUNCTION audit.chain_row(), audit.close_head() FROM PUBLIC;
-- ATTACH gives each new partition the log's triggers, as whoever attaches it.
DO $grant$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = 'dbagent_part_owner') THEN
        GRANT EXECUTE ON FUNCTION audit.chain_row() TO dbagent_part_owner;
    END IF;
END
$grant$;

CREATE CONSTRAINT TRIGGER chain_head_close AFTER UPDATE ON audit.chain_head
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION audit.close_head();
ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close;
