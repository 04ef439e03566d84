-- Registers a table for partition maintenance.
-- Parameters: $1 schema, $2 name, $3 key column (text), $4 retention as an interval's text (null for ever), $5 archive,
-- $6 seal (bool). Result: what was changed (text). Privilege: superuser, or owner of schema dbagent. Versions: 14-18.
SELECT dbagent.register_parent($1, $2, $3, $4::text::interval, $5, $6)
