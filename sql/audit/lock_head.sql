-- Keeps everybody from adding to the chain until the transaction ends.
-- Parameters: $1 chain (text). Result: seq (int8). Privilege: UPDATE on audit.chain_head. Versions: 14-18.
SELECT seq FROM audit.chain_head WHERE chain = $1::pg_catalog.text FOR UPDATE
