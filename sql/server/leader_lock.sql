-- Takes the leader's lock for the session, unless another has it; on a standby, whose locks are its own, only where asked.
-- Parameters: $1 class (int4), $2 cluster (int4), $3 also on a standby (bool).
-- Result: on_standby bool, taken bool. Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_is_in_recovery() AS on_standby,
       CASE WHEN pg_catalog.pg_is_in_recovery() AND NOT $3::pg_catalog.bool THEN false
            ELSE pg_catalog.pg_try_advisory_lock($1, $2) END AS taken
