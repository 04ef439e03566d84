-- Bytes of a file of the cluster, as they lie on the server's disk now.
-- Parameters: $1 path below the data directory (text), $2 offset in bytes (int8), $3 length in bytes (int8). Result: bytes
-- bytea, fewer where the file ends before; null where it is gone. Privilege: EXECUTE on
-- pg_read_binary_file(text, bigint, bigint, boolean). Versions: 14-18, on a standby too.
SELECT pg_catalog.pg_read_binary_file($1::pg_catalog.text, $2::pg_catalog.int8, $3::pg_catalog.int8, true) AS bytes
