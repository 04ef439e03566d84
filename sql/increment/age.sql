-- How long ago a transaction was, as age(xmin) counts it for the rest of this transaction: the limit of changed rows.
-- Parameters: $1 a transaction id (text). Result: int4. Privilege: none. Versions: 14-18.
SELECT pg_catalog.age(($1::pg_catalog.text)::pg_catalog.xid)
