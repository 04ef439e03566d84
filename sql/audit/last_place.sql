-- The newest place of the chain.
-- Parameters: none. Result: seq (int8), hash (text); no row when there is none.
-- Privilege: SELECT on audit.chain_seq. Versions: 14-18.
SELECT seq, hash::pg_catalog.text FROM audit.chain_seq ORDER BY seq DESC LIMIT 1
