-- Records that an archive of a partition was verified.
-- Parameters: $1 oid, $2 artifact (text), $3 rows (int8), $4 digest of its rows (text). Result: nothing.
-- Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.record_archive($1, $2, $3, $4)::text
