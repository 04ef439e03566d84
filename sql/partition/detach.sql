-- Detaches a partition whose time is over and whose archive is recorded.
-- Parameters: $1 schema, $2 parent (text), $3 oid, $4 only check, because the caller detaches it himself (bool). Result: nothing. Privilege: dbagent_part. Versions: 14-18.
SELECT dbagent.detach_partition($1, $2, $3, $4)::text
