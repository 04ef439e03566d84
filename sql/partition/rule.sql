-- Whether a table is registered for partition maintenance, and as the plan has it.
-- Parameters: $1 schema, $2 name, $3 key column (text), $4 retention as an interval's text (null for ever), $5 archive,
-- $6 seal (bool). Result: same (bool); no row when it is not registered. Privilege: dbagent_part. Versions: 14-18.
SELECT key_column = $3 AND retention IS NOT DISTINCT FROM $4::text::interval AND archive = $5 AND seal = $6
FROM dbagent.partition_rules WHERE schema_name = $1 AND table_name = $2
