-- The head of the chain.
-- Parameters: $1 chain (text). Result: seq (int8), hash (text). Privilege: SELECT on audit.chain_head. Versions: 14-18.
SELECT seq, hash::pg_catalog.text FROM audit.chain_head WHERE chain = $1::pg_catalog.text
