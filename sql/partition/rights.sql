-- What the owner of the partition functions lacks for a parent; nothing when all is there, or when there is no such role.
-- Parameters: $1 oid of the parent. Result: text. Privilege: none. Versions: 14-18.
SELECT CASE WHEN o.rolsuper THEN pg_catalog.format('give it and its partitions from the superuser %s to dbagent_part_owner', o.rolname)
            ELSE pg_catalog.format('make dbagent_part_owner a member of its owner %s', o.rolname) END
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
LEFT JOIN pg_catalog.pg_roles us ON us.rolname = 'dbagent_part_owner'
WHERE c.oid = $1::oid AND (us.oid IS NULL OR o.rolsuper OR NOT pg_catalog.pg_has_role(us.oid, o.oid, 'USAGE'))
UNION ALL
SELECT pg_catalog.format('give its partition %s from the superuser %s to its own owner', leaf.oid::pg_catalog.regclass, o.rolname)
FROM pg_catalog.pg_partition_tree($1::oid) t
JOIN pg_catalog.pg_class leaf ON leaf.oid = t.relid AND t.level > 0
JOIN pg_catalog.pg_class parent ON parent.oid = $1::oid AND parent.relowner <> leaf.relowner
JOIN pg_catalog.pg_roles o ON o.oid = leaf.relowner AND o.rolsuper
UNION ALL
SELECT DISTINCT pg_catalog.format('let dbagent_part_owner call %s, a trigger of it', t.tgfoid::pg_catalog.regprocedure)
FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_roles us ON us.rolname = 'dbagent_part_owner'
WHERE t.tgrelid = $1::oid AND NOT t.tgisinternal AND NOT pg_catalog.has_function_privilege(us.oid, t.tgfoid, 'EXECUTE')
