-- Whether no row of the log has a place in the chain.
-- Parameters: none. Result: empty (bool). Privilege: SELECT on audit.chain_head and audit.chain_seq. Versions: 14-18.
SELECT NOT EXISTS (SELECT FROM audit.chain_seq) AND NOT EXISTS (SELECT FROM audit.chain_head WHERE seq > 0)
