-- Whether the write-ahead log is on the disk up to a position.
-- Parameters: $1 lsn (text). Result: one boolean. Privilege: none unless revoked. Versions: 14-18.
SELECT pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_catalog.text::pg_catalog.pg_lsn
