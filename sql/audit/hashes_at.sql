-- The hashes of some places of the chain.
-- Parameters: $1 seqs (int8[]). Result: seq (int8), hash (text). Privilege: SELECT on audit.chain_seq. Versions: 14-18.
SELECT seq, hash::pg_catalog.text FROM audit.chain_seq WHERE seq = ANY ($1::pg_catalog.int8[]) ORDER BY seq
