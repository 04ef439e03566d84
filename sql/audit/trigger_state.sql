-- The state of the chain's trigger on the log.
-- Parameters: none. Result: enabled (text: A, O, R, D); no row where there is none. Privilege: none. Versions: 14-18.
SELECT t.tgenabled::pg_catalog.text FROM pg_catalog.pg_trigger t
WHERE t.tgrelid = pg_catalog.to_regclass('public.audit_logs') AND t.tgname = 'zz_audit_chain'
