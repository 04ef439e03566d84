-- A small database with what is awkward to dump and restore.
CREATE TYPE mood AS ENUM ('glad', 'so-so', 'it''s bad');
CREATE DOMAIN email AS text CHECK (VALUE LIKE '%@%');
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END$$;
CREATE TABLE customers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email email UNIQUE NOT NULL,
    name text,
    mood mood,
    tags text[],
    spans int4range,
    born date,
    spent double precision,
    shouted text GENERATED ALWAYS AS (upper(name)) STORED,
    referred_by bigint REFERENCES customers,
    updated_at timestamptz NOT NULL DEFAULT now());
CREATE TRIGGER touch BEFORE UPDATE ON customers FOR EACH ROW EXECUTE FUNCTION touch();
CREATE TABLE orders (
    id serial PRIMARY KEY,
    customer bigint NOT NULL REFERENCES customers ON DELETE CASCADE,
    note text,
    details jsonb,
    paid interval,
    placed_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON orders (customer);
CREATE TABLE events (at timestamptz NOT NULL, what text NOT NULL, raw bytea) PARTITION BY RANGE (at);
CREATE TABLE events_2026_01 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
CREATE TABLE events_2026_02 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
CREATE TABLE events_default PARTITION OF events DEFAULT;
CREATE TABLE "Odd ""name""" ("a.b" int PRIMARY KEY, "NEW
line" text, "select" text);
CREATE TABLE left_out (id int);
CREATE VIEW glad AS SELECT * FROM customers WHERE mood = 'glad';

INSERT INTO customers (email, name, mood, tags, spans, born, spent)
SELECT 'c' || n || '@example.org', CASE WHEN n % 7 = 0 THEN NULL WHEN n % 11 = 0 THEN '' ELSE E'tab\there, \\. and ''q'' ü ' || n END,
       (ARRAY['glad', 'so-so', 'it''s bad'])[n % 3 + 1]::mood, ARRAY['a', NULL, 'b,c'], int4range(n, n + 5),
       CASE WHEN n % 13 = 0 THEN 'infinity'::date ELSE '2000-01-01'::date + n END,
       CASE WHEN n % 17 = 0 THEN 'NaN' WHEN n % 19 = 0 THEN '-0' ELSE n / 3.0::float8 END
FROM generate_series(1, 500) n;
UPDATE customers SET referred_by = id - 1 WHERE id % 2 = 0;
INSERT INTO orders (customer, note, details, paid, placed_at)
SELECT n % 500 + 1, repeat('text ' || n || E'\n', n % 30), jsonb_build_object('n', n, 'x', 1.00), make_interval(days => n), '2026-01-01'::timestamptz + n * interval '1 hour'
FROM generate_series(1, 3000) n;
INSERT INTO events SELECT '2025-12-20'::timestamptz + n * interval '40 minutes', 'event ' || n, sha256(n::text::bytea) FROM generate_series(1, 4000) n;
INSERT INTO "Odd ""name""" SELECT n, 'line' || n, NULL FROM generate_series(1, 50) n;
INSERT INTO left_out VALUES (1);
