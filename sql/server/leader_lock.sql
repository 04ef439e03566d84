-- Takes the leader's lock for the session, unless another has it or the server is in recovery.
-- Parameters: $1 class (int4), $2 cluster (int4). Result: whether it was taken. Privilege: none. Versions: 14-18.
SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN false ELSE pg_catalog.pg_try_advisory_lock($1, $2) END
