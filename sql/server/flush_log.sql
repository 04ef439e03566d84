-- Has the write-ahead log brought to the disk, as the end of a transaction that wrote does; what it writes means nothing.
-- Parameters: none. Result: lsn. Privilege: none unless revoked. Versions: 14-18.
SELECT pg_catalog.pg_logical_emit_message(true, 'dbagent', '')::pg_catalog.text
