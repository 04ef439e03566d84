-- Whether a relation is the audit log or a partition of it.
-- Parameters: $1 relation (text, quoted). Result: bool. Privilege: none. Versions: 14-18.
SELECT EXISTS (SELECT FROM pg_catalog.pg_partition_tree(pg_catalog.to_regclass('public.audit_logs')) t
               WHERE t.relid = pg_catalog.to_regclass($1::pg_catalog.text))
