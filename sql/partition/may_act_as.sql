-- Whether the login may act as the owner of a table, for what no function can do.
-- Parameters: $1 oid of the table. Result: owner (text), may (bool). Privilege: none. Versions: 14-18.
SELECT pg_catalog.pg_get_userbyid(relowner)::text, pg_catalog.pg_has_role(session_user, relowner, 'MEMBER')
FROM pg_catalog.pg_class WHERE oid = $1::oid
