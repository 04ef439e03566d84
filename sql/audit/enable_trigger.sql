-- Puts the chain's trigger on public.audit_logs, for every insert, also of a session that replays changes.
--
-- purpose     the last step of installing or of chaining an existing table; the log must be empty or chained
-- parameters  none
-- privilege   owner of public.audit_logs, EXECUTE on audit.chain_row
-- versions    PostgreSQL 14 to 18
--
-- BEFORE triggers run in the order of their names; the chain's must be the last, so that nothing changes a row after it
-- was hashed. Partitions made later get it as it is here.

CREATE TRIGGER zz_audit_chain BEFORE INSERT ON public.audit_logs
    FOR EACH ROW EXECUTE FUNCTION audit.chain_row();
ALTER TABLE public.audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain;
