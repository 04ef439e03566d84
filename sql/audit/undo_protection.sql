-- Takes the chain's triggers off and sets what owns it right, so that they can be put on again as they are installed.
--
-- purpose     the first step of putting a changed protection back; functions and triggers follow in the same transaction
-- parameters  none
-- privilege   superuser, or owner of public.audit_logs with CREATEROLE and member of audit_owner
-- versions    PostgreSQL 14 to 18
--
-- Nobody inserts in between: dropping a trigger locks the log until the transaction ends.

SET LOCAL lock_timeout = '5s';
DROP TRIGGER IF EXISTS zz_audit_chain ON public.audit_logs;
DROP TRIGGER IF EXISTS chain_head_close ON audit.chain_head;
ALTER ROLE audit_owner NOLOGIN NOSUPERUSER;
ALTER TABLE audit.chain_head OWNER TO audit_owner;
ALTER TABLE audit.chain_seq OWNER TO audit_owner;
