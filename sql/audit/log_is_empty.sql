-- Whether the audit log has no row at all, in any partition.
-- Parameters: none. Result: empty (bool). Privilege: SELECT on public.audit_logs. Versions: 14-18.
SELECT NOT EXISTS (SELECT FROM public.audit_logs)
