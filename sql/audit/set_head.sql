-- Lets the head of the chain name a place, also where its row is gone.
-- Parameters: $1 seq (int8), $2 hash (text). Result: none. Privilege: owner of audit.chain_head. Versions: 14-18.
INSERT INTO audit.chain_head (chain, seq, hash) VALUES ('audit_logs', $1::pg_catalog.int8, $2::pg_catalog.text)
ON CONFLICT (chain) DO UPDATE SET seq = excluded.seq, hash = excluded.hash
