-- The recorded seal of a partition.
-- Parameters: $1 oid. Result: sealed_rows (int8), artifact (text). Privilege: dbagent_part. Versions: 14-18.
SELECT sealed_rows, artifact FROM dbagent.partition_seal($1::oid)
