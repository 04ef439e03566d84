-- Why a plain table cannot be converted into a partitioned one while it is in use; nothing when it can.
-- Parameters: $1 oid of the table, $2 key column (text). Result: text, for people. Privilege: none. Versions: 14-18.
WITH t AS (
    SELECT c.*, a.attnum AS key_number, a.atttypid AS key_type FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname::text = $2::text AND NOT a.attisdropped
    WHERE c.oid = $1::oid
)
SELECT 'it is partitioned already' FROM t WHERE relkind = 'p'
UNION ALL SELECT 'it is no ordinary logged table' FROM t WHERE relkind <> 'p' AND (relkind <> 'r' OR relpersistence <> 'p' OR reloftype <> 0)
UNION ALL SELECT 'it has no column ' || $2::text || ' of type date, timestamp or timestamptz' FROM t
WHERE key_type IS NULL OR pg_catalog.format_type(key_type, NULL) NOT IN ('date', 'timestamp without time zone', 'timestamp with time zone')
UNION ALL SELECT 'it has no primary key: rows that change while they are copied could not be followed' FROM t
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = t.oid AND i.indisprimary)
UNION ALL SELECT pg_catalog.format('the unique index %s does not contain %s; a partitioned table needs that', i.indexrelid::pg_catalog.regclass, $2::text)
FROM t JOIN pg_catalog.pg_index i ON i.indrelid = t.oid AND (i.indisunique OR i.indisprimary)
WHERE NOT t.key_number = ANY ((i.indkey::pg_catalog.int2[])[0:i.indnkeyatts - 1])
UNION ALL SELECT 'it has the exclusion constraint ' || pg_catalog.quote_ident(x.conname) FROM t JOIN pg_catalog.pg_constraint x ON x.conrelid = t.oid AND x.contype = 'x'
UNION ALL SELECT pg_catalog.format('the foreign key %1$s of %2$s refers to it; ALTER TABLE %2$s DROP CONSTRAINT %1$s', pg_catalog.quote_ident(f.conname), f.conrelid::pg_catalog.regclass)
FROM t JOIN pg_catalog.pg_constraint f ON f.confrelid = t.oid AND f.contype = 'f'
UNION ALL SELECT pg_catalog.format('it refers to other tables by a foreign key, which is not carried over; ALTER TABLE %1$s DROP CONSTRAINT %2$s, and after the conversion, where it is still wanted, ALTER TABLE %1$s ADD CONSTRAINT %2$s %3$s',
    t.oid::pg_catalog.regclass, pg_catalog.quote_ident(f.conname), pg_catalog.pg_get_constraintdef(f.oid))
FROM t JOIN pg_catalog.pg_constraint f ON f.conrelid = t.oid AND f.contype = 'f'
UNION ALL SELECT pg_catalog.format('its column %2$s is an identity column, which is not carried over; ALTER TABLE %1$s ALTER COLUMN %2$s DROP IDENTITY, and give it a sequence as its default (deploy/runbooks/partitions.md)',
    t.oid::pg_catalog.regclass, pg_catalog.quote_ident(a.attname))
FROM t JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attidentity <> '' AND NOT a.attisdropped
UNION ALL SELECT pg_catalog.format('its row-level security holds for its owner too, who copies it; ALTER TABLE %1$s NO FORCE ROW LEVEL SECURITY, and FORCE it again after dbagent partition convert --finish', t.oid::pg_catalog.regclass) FROM t
WHERE relforcerowsecurity
UNION ALL SELECT DISTINCT pg_catalog.format('the policy %s on %s depends on it; drop it and make it again afterwards', pg_catalog.quote_ident(p.polname), p.polrelid::pg_catalog.regclass)
FROM t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid
JOIN pg_catalog.pg_policy p ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND p.oid = d.objid AND p.polrelid <> t.oid
UNION ALL SELECT DISTINCT pg_catalog.format('the %s depends on its row type; drop it and make it again afterwards', pg_catalog.pg_describe_object(d.classid, d.objid, d.objsubid))
FROM t JOIN pg_catalog.pg_type y ON y.oid = t.reltype
JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (y.oid, y.typarray) AND d.deptype = 'n'
UNION ALL SELECT 'it inherits, or is inherited from' FROM t
WHERE EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE t.oid IN (i.inhrelid, i.inhparent)) AND relkind = 'r'
UNION ALL SELECT DISTINCT pg_catalog.format('the view or rule on %s depends on it; drop it and make it again afterwards', r.ev_class::pg_catalog.regclass)
FROM t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid
JOIN pg_catalog.pg_rewrite r ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND r.oid = d.objid
UNION ALL SELECT DISTINCT pg_catalog.format('the function %s depends on it; drop it and make it again afterwards', d.objid::pg_catalog.regprocedure)
FROM t JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid = t.oid
WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
UNION ALL SELECT pg_catalog.format('it is part of the publication %1$s; ALTER PUBLICATION %1$s DROP TABLE %2$s, and ADD it afterwards', pg_catalog.quote_ident(p.pubname), t.oid::pg_catalog.regclass) FROM t
JOIN pg_catalog.pg_publication_rel r ON r.prrelid = t.oid JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
UNION ALL SELECT pg_catalog.format('the publication %s publishes its schema, also the copy', pg_catalog.quote_ident(p.pubname)) FROM t
JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
JOIN pg_catalog.pg_publication_tables p ON p.schemaname = n.nspname AND p.tablename = t.relname
JOIN pg_catalog.pg_publication o ON o.pubname = p.pubname AND NOT o.puballtables
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r WHERE r.prrelid = t.oid AND r.prpubid = o.oid)
UNION ALL SELECT pg_catalog.format('its trigger %s is a constraint trigger or reads whole statements (REFERENCING)', g.tgname)
FROM t JOIN pg_catalog.pg_trigger g ON g.tgrelid = t.oid AND NOT g.tgisinternal
WHERE g.tgconstraint <> 0 OR g.tgoldtable IS NOT NULL OR g.tgnewtable IS NOT NULL
UNION ALL SELECT 'its name is too long for the names of months' FROM t WHERE pg_catalog.octet_length(relname::text) > 55
UNION ALL SELECT 'the publication ' || pg_catalog.quote_ident(pubname) || ' publishes all tables, also the copy' FROM pg_catalog.pg_publication, t
WHERE puballtables AND relkind = 'r'
