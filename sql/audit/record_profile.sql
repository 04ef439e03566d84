-- Pins a formula for a range of older rows.
-- Parameters: $1 name, $2 from and $3 until (text, as PostgreSQL reads timestamps, UTC), $4 definition, $5 digest (text).
-- Result: none. Privilege: owner of audit.profiles. Versions: 14-18.
INSERT INTO audit.profiles (name, from_at, until_at, definition, digest)
VALUES ($1::pg_catalog.text, $2::pg_catalog.text::pg_catalog.timestamp, $3::pg_catalog.text::pg_catalog.timestamp,
        $4::pg_catalog.text, $5::pg_catalog.text)
