//! What increments must survive: transactions that commit late, keys that move, schemas that change, histories that end.

use dbagent::model::manifest::Whole;
use dbagent::model::verb::Verb;
use dbagent::ops::{dump, increment};
use dbagent::postgres::Session;

use crate::increment::{QUOTED, assert_restores_equal, incremented, newest, record};
use crate::stage::site::Site;

/// A session of the application, whose names need no schema.
async fn session(site: &Site) -> Session {
    let session = site.connection().connect().await.unwrap();
    session.batch("SET search_path = public").await.unwrap();
    session
}

/// An increment of `tables` only; gives whether it was one, and not a full dump.
async fn increment_of(site: &Site, tables: &[&str]) -> bool {
    let options = dump::Options {
        tables: tables.iter().map(|table| table.parse().unwrap()).collect(),
        ..site.increment_options()
    };
    increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap();
    newest(site).await.verb == Verb::Increment
}

#[tokio::test(flavor = "multi_thread")]
async fn f73_a_transaction_that_commits_after_the_increment_is_in_the_next_one() {
    let site = Site::new();
    site.dump().await.unwrap();
    let (late, nested) = (session(&site).await, session(&site).await);
    late.batch(
        "BEGIN; UPDATE orders SET note = 'late' WHERE id < 50; DELETE FROM \"Odd \"\"name\"\"\" WHERE \"a.b\" = 9",
    )
    .await
    .unwrap();
    nested
        .batch(
            "BEGIN; SAVEPOINT a; INSERT INTO customers (email) VALUES ('nested@example.org'); SAVEPOINT b; \
             DELETE FROM customers WHERE id = 500; ROLLBACK TO b; UPDATE customers SET spent = 1 WHERE id = 499; RELEASE a",
        )
        .await
        .unwrap();
    site.ask("UPDATE orders SET note = 'in time' WHERE id > 2990");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "while both are open").await;
    site.ask("INSERT INTO orders (customer) SELECT 1 FROM generate_series(1, 10)");
    late.batch("COMMIT").await.unwrap();
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "the late one has committed").await;
    nested.batch("COMMIT").await.unwrap();
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "the nested one has committed").await;
    assert!(record(&site, "customers").await.change.unwrap().stored.rows >= 2, "nothing came late");
}

#[tokio::test(flavor = "multi_thread")]
async fn f74_a_prepared_transaction_is_in_the_increment_after_its_commit() {
    let site = Site::with(&[("max_prepared_transactions", "5")]);
    site.dump().await.unwrap();
    site.ask("BEGIN; UPDATE orders SET note = 'prepared' WHERE id < 9; DELETE FROM orders WHERE id = 10; PREPARE TRANSACTION 'p'");
    assert_eq!(site.ask("SELECT count(*) FROM pg_prepared_xacts"), "1");
    site.ask("DELETE FROM orders WHERE id > 2000");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "prepared").await;
    site.ask("COMMIT PREPARED 'p'");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "committed").await;
    assert_eq!(site.ask("SELECT count(*) FROM orders WHERE note = 'prepared'"), "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn f75_what_is_deleted_truncated_or_dropped_does_not_come_back() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("DELETE FROM orders WHERE id % 3 = 0");
    incremented(&site).await;
    let marked = record(&site, "orders").await.change.unwrap().marked.unwrap();
    assert!(marked.count() > 0);
    assert_restores_equal(&site, &QUOTED, "deleted").await;
    site.ask("TRUNCATE orders, events_2026_01; DROP TABLE events_2026_02");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "truncated, and a partition dropped").await;
    site.ask("INSERT INTO orders (id, customer) VALUES (1, 1), (2, 2); DELETE FROM customers WHERE id > 490");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "deleted keys back again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f76_keys_that_are_updated_reused_and_swapped_end_where_they_are() {
    let site = Site::new();
    site.dump().await.unwrap();
    let changes = [
        "UPDATE orders SET id = id + 100000 WHERE id <= 10",
        "DELETE FROM orders WHERE id = 11; INSERT INTO orders (id, customer, note) VALUES (11, 5, 'another')",
        "BEGIN; UPDATE orders SET id = -1 WHERE id = 20; UPDATE orders SET id = 20 WHERE id = 21; UPDATE orders SET id = 21 WHERE id = -1; COMMIT",
        "BEGIN; UPDATE customers SET email = 'tmp@x' WHERE id = 1; UPDATE customers SET email = 'c1@example.org' WHERE id = 2; \
         UPDATE customers SET email = 'c2@example.org' WHERE id = 1; COMMIT",
        "UPDATE \"Odd \"\"name\"\"\" SET \"a.b\" = -\"a.b\"",
        "UPDATE orders SET id = 11 WHERE id = 3000 AND NOT EXISTS (SELECT FROM orders WHERE id = 11); DELETE FROM orders WHERE id = 12",
    ];
    for change in changes {
        site.ask(change);
        incremented(&site).await;
    }
    assert_restores_equal(&site, &QUOTED, "moved about").await;
    assert_eq!(site.ask("SELECT note FROM orders WHERE id = 11"), "another");
}

#[tokio::test(flavor = "multi_thread")]
async fn f77_no_timestamp_of_the_application_is_relied_on() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask(
        "ALTER TABLE customers DISABLE TRIGGER USER; UPDATE customers SET name = 'past', updated_at = '1999-01-01' WHERE id = 1; \
         UPDATE customers SET name = 'future', updated_at = '2999-01-01' WHERE id = 2; \
         UPDATE customers SET name = 'untold' WHERE id = 3; ALTER TABLE customers ENABLE TRIGGER USER; \
         UPDATE orders SET placed_at = '2000-01-01', note = 'old' WHERE id = 4",
    );
    incremented(&site).await;
    assert_eq!(record(&site, "customers").await.change.unwrap().stored.rows, 3);
    assert_restores_equal(&site, &QUOTED, "whatever the clocks say").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f78_every_ddl_either_goes_on_exactly_or_begins_a_new_chain() {
    let site = Site::new();
    site.ask(
        "CREATE TYPE pair AS (a int, b text); CREATE TYPE state AS ENUM ('new', 'old'); \
         CREATE TABLE t (id int PRIMARY KEY, v text, n int, s state, p pair, x varchar(10)); \
         INSERT INTO t SELECT g, 'v' || g, g, 'new', ROW(g, 'b'::text)::pair, 'x' FROM generate_series(1, 500) g; \
         CREATE TABLE parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id); \
         CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (100); INSERT INTO parts SELECT g, 'p' FROM generate_series(1, 99) g",
    );
    let tables = ["t", "parts"];
    assert!(!increment_of(&site, &tables).await);
    // Whether the chain goes on, and the statement.
    let ddl = [
        (false, "ALTER TABLE t ADD COLUMN extra int DEFAULT 7"),
        (false, "ALTER TABLE t DROP COLUMN extra"),
        (false, "ALTER TABLE t RENAME COLUMN v TO w"),
        (false, "ALTER TABLE t ALTER COLUMN n TYPE bigint"),
        (false, "ALTER TABLE t ALTER COLUMN x TYPE varchar(20)"),
        (false, "ALTER TABLE t DROP COLUMN n, ADD COLUMN n bigint"),
        (false, "ALTER TYPE state RENAME VALUE 'new' TO 'fresh'"),
        (false, "ALTER TYPE pair ADD ATTRIBUTE c int"),
        (false, "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (id, x)"),
        (false, "ALTER TABLE t ALTER COLUMN w SET NOT NULL"),
        (true, "ALTER TABLE t ALTER COLUMN w SET DEFAULT 'later'"),
        (true, "CREATE INDEX ON t (w); ALTER TABLE t ADD CHECK (id > 0); CREATE VIEW seen AS SELECT * FROM t"),
        (true, "ALTER TABLE t SET (fillfactor = 50); VACUUM FULL t"),
        (
            true,
            "CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (100) TO (200); INSERT INTO parts SELECT g, 'q' FROM generate_series(100, 150) g",
        ),
        (true, "DROP TABLE parts_1"),
        (
            true,
            "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.w := ''by trigger''; RETURN NEW; END'; \
                CREATE TRIGGER f BEFORE INSERT OR UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        ),
        (false, "ALTER TABLE t RENAME TO u; CREATE TABLE t (LIKE u INCLUDING ALL)"),
        (false, "DROP TABLE t; CREATE TABLE t (id int PRIMARY KEY, other text)"),
    ];
    for (at, (goes_on, statement)) in ddl.into_iter().enumerate() {
        for single in statement
            .split("; VACUUM")
            .enumerate()
            .map(|(n, s)| if n == 0 { s.to_owned() } else { format!("VACUUM{s}") })
        {
            site.ask(&single);
        }
        site.ask(&format!("DELETE FROM t WHERE id = {at}; UPDATE t SET id = id WHERE id % 100 = {at}"));
        let went_on = increment_of(&site, &tables).await;
        // ALTER … RENAME and a new table of the same form: the relation is another, so both ways would be exact.
        if at != 16 {
            assert_eq!(went_on, goes_on, "{statement}");
        }
        // Where a new chain begins it is a full dump like any other.
        if went_on {
            assert_restores_equal(&site, &tables, statement).await;
        }
    }
    assert_restores_equal(&site, &tables, "in the end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f79_an_exclusive_lock_is_waited_for_no_longer_than_allowed() {
    let site = Site::new();
    site.dump().await.unwrap();
    let holder = session(&site).await;
    holder.batch("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let options = dump::Options { lock_timeout: std::time::Duration::from_millis(50), ..site.increment_options() };
    let before = site.artifacts("local").await.len();
    let failure = increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap_err();
    assert!(failure.full_message().contains("lock"), "{}", failure.full_message());
    assert_eq!(site.artifacts("local").await.len(), before, "nothing was committed");
    holder.batch("DELETE FROM orders WHERE id = 1; COMMIT").await.unwrap();
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "after the lock").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f80_a_table_without_a_key_is_copied_whole_each_time() {
    let site = Site::new();
    site.ask("CREATE TABLE bag (v text); INSERT INTO bag SELECT 'same' FROM generate_series(1, 30); \
              CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY); INSERT INTO computed SELECT g FROM generate_series(1, 9) g");
    let tables = ["bag", "computed"];
    assert!(!increment_of(&site, &tables).await);
    site.ask("DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag LIMIT 12); UPDATE bag SET v = NULL WHERE ctid = (SELECT min(ctid) FROM bag); DELETE FROM computed WHERE a = 3");
    assert!(increment_of(&site, &tables).await);
    for table in tables {
        assert_eq!(record(&site, table).await.change.unwrap().whole, Some(Whole::NoKey), "{table}");
    }
    assert_restores_equal(&site, &tables, "whole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f81_awful_names_go_through_an_increment() {
    let site = Site::new();
    let mut names: Vec<String> = [
        "Upper",
        "with space",
        "quo\"te",
        "\"; DROP TABLE orders; --",
        "%s%n",
        "new\nline",
        "tab\there",
        "-leading",
        "--",
        "select",
        "table",
        "a.b",
        "a/b",
        "..",
        "/etc/passwd",
        "back\\slash",
        "'single'",
        "$1",
        "$$",
        "{}",
        "*",
        "?",
        "~",
        "`id`",
        "$(id)",
        "ü",
        "日本語",
        "🦀",
        "e\u{301}",
        " ",
        "  lead",
        "trail ",
        "0",
        "NULL",
        "true",
        "#",
        "@",
        "!",
        "a,b",
        "(x)",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("é".repeat(31));
    let quoted: Vec<String> = names.iter().map(|name| format!("\"{}\"", name.replace('"', "\"\""))).collect();
    for (at, name) in quoted.iter().enumerate() {
        site.ask(&format!("CREATE TABLE {name} ({name} int PRIMARY KEY, v text); INSERT INTO {name} SELECT g, 'v' FROM generate_series(1, {}) g", at + 5));
    }
    let tables: Vec<&str> = quoted.iter().map(String::as_str).collect();
    assert!(!increment_of(&site, &tables).await);
    for name in &quoted {
        site.ask(&format!("DELETE FROM {name} WHERE {name} = 2; UPDATE {name} SET v = 'w' WHERE {name} = 3; INSERT INTO {name} VALUES (1000, NULL)"));
    }
    assert!(increment_of(&site, &tables).await);
    assert_restores_equal(&site, &tables, "awful names").await;
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "3000");
}

#[tokio::test(flavor = "multi_thread")]
async fn f82_a_table_that_is_no_table_is_refused_and_runs_nothing() {
    let site = Site::new();
    let mut options = site.increment_options();
    options.tables = vec![dbagent::model::table::TableName { schema: None, name: "orders; DROP TABLE orders".into() }];
    let refused = increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap_err();
    assert!(refused.full_message().contains("there is no table"), "{}", refused.full_message());
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "3000");
}

#[tokio::test(flavor = "multi_thread")]
async fn f83_wide_and_long_rows_go_through() {
    let site = Site::new();
    let columns: Vec<String> = (0..1500).map(|n| format!("c{n} int")).collect();
    site.ask(&format!("CREATE TABLE wide (id int PRIMARY KEY, {}); INSERT INTO wide (id, c7) SELECT g, g FROM generate_series(1, 20) g", columns.join(", ")));
    site.ask("CREATE TABLE long (v text, id int PRIMARY KEY, b bytea); INSERT INTO long SELECT repeat('x', 100), g, 'y' FROM generate_series(1, 20) g");
    let tables = ["wide", "long"];
    assert!(!increment_of(&site, &tables).await);
    site.ask("UPDATE wide SET c1499 = 1 WHERE id = 5; UPDATE long SET v = repeat(E'long \\\\ line\\n', 900000), b = decode(repeat('00ff', 3000000), 'hex') WHERE id = 7");
    site.ask("DELETE FROM long WHERE id = 8; DELETE FROM wide WHERE id = 9");
    assert!(increment_of(&site, &tables).await);
    let stored = record(&site, "long").await.change.unwrap().stored;
    assert!(stored.bytes > 20 << 20, "a row that takes several members: {} bytes", stored.bytes);
    assert_restores_equal(&site, &tables, "long").await;
    site.ask("UPDATE long SET v = 'short' WHERE id = 7");
    assert!(increment_of(&site, &tables).await);
    assert_restores_equal(&site, &tables, "short again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f84_databases_of_other_encodings_keep_their_bytes() {
    for (encoding, text) in [("LATIN1", "chr(233) || chr(255)"), ("SQL_ASCII", "E'\\xe9\\xff'"), ("EUC_JP", "'a'")] {
        let site = Site::new();
        let sql = |database: &str, statement: &str| site.server.sql_in(database, statement).unwrap();
        sql(
            "postgres",
            &format!("CREATE DATABASE enc ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"),
        );
        sql(
            "enc",
            &format!(
                "CREATE TABLE words (w text PRIMARY KEY, n int); INSERT INTO words SELECT {text} || g, g FROM generate_series(1, 50) g"
            ),
        );
        let mut doors = site.dump_doors();
        doors.connection = site.connection().with_database("enc");
        let options = dump::Options { tables: vec!["words".parse().unwrap()], ..site.increment_options() };
        increment::run(&options, &doors, None, &site.setting()).await.unwrap();
        sql(
            "enc",
            "DELETE FROM words WHERE n = 3; UPDATE words SET n = 0 WHERE n = 4; UPDATE words SET w = w || w WHERE n = 5",
        );
        increment::run(&options, &doors, None, &site.setting()).await.unwrap();
        assert_eq!(
            (newest(&site).await.verb, newest(&site).await.source.encoding.as_str()),
            (Verb::Increment, encoding)
        );
        site.restore_database("copy").await.unwrap();
        let sum = "SELECT md5(string_agg(encode(convert_to(w, getdatabaseencoding()), 'hex') || n, ',' ORDER BY w)) FROM words";
        let sum = if encoding == "SQL_ASCII" {
            &sum.replace("convert_to(w, getdatabaseencoding())", "w::bytea")
        } else {
            sum
        };
        assert_eq!(sql("copy", sum), sql("enc", sum), "{encoding}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f85_values_of_every_kind_come_back_as_they_were() {
    let site = Site::new();
    site.ask(
        "CREATE TYPE color AS ENUM ('red', 'it''s \"green\"'); CREATE DOMAIN small AS int CHECK (VALUE < 1000); \
         CREATE TYPE inner_pair AS (a text, b int[]); CREATE TYPE outer_pair AS (i inner_pair, d date); \
         CREATE TABLE zoo (c char(8), id numeric, PRIMARY KEY (id, c), b bool, e color, s small, p outer_pair, r tstzrange, m int4multirange, \
             a text[], f float8, g float4, t timestamptz, ts timestamp, ti timetz, i interval, mo money, by bytea, j json, jb jsonb, u uuid, \
             inet inet, bits bit(5), pt point, x xml, v tsvector, n name, ch \"char\", rc regclass, nu numeric(20,5))",
    );
    let row = |id: &str| {
        format!(
            "INSERT INTO zoo VALUES ('k', {id}, true, 'it''s \"green\"', 7, ROW(ROW(E'tab\\t,(\"q\\\\ \\n', '{{1,NULL}}'), 'infinity'), \
             '[2026-01-01,)', '{{[1,3),[5,9)}}', ARRAY['', NULL, '{{', 'a\"b', E'\\\\N'], '-0', 'NaN', '-infinity', '0044-03-15 BC', '12:00+09', \
             '-1 year 3 days -04:05:06.789', 1234.5, '\\x00ff5c0a', '{{\"a\" : 1.0}}', '{{\"a\":1.00}}', gen_random_uuid(), '::1/64', '10101', \
             '(1,2)', '<a>&amp;</a>', 'a:1 b:2', 'Name', 'x', 'orders', 0.10000)"
        )
    };
    site.ask(&["1", "2.50", "3", "4", "1e10"].map(row).join("; "));
    assert!(!increment_of(&site, &["zoo"]).await);
    site.ask(&row("5.000"));
    site.ask("UPDATE zoo SET id = 2.5 WHERE id = 2.50; UPDATE zoo SET f = 1.0/3, c = 'other' WHERE id = 3; DELETE FROM zoo WHERE id = 4; UPDATE zoo SET b = NULL, p = NULL WHERE id = 1");
    assert!(increment_of(&site, &["zoo"]).await);
    assert_eq!(record(&site, "zoo").await.change.unwrap().stored.rows, 4);
    assert_restores_equal(&site, &["zoo"], "every kind").await;
    assert_eq!(site.ask("SELECT id FROM zoo WHERE id = 2.5"), "2.5", "the same number in other digits is another text");
}

/// Keys are read in binary and printed by the agent; a print that differed from the dump's would copy the table whole.
#[tokio::test(flavor = "multi_thread")]
async fn f85_keys_of_every_kind_are_those_of_the_dump() {
    let site = Site::new();
    site.ask(
        "CREATE TABLE keys (u uuid, t timestamp, n bigint, i int, s smallint, v varchar(20), x text, PRIMARY KEY (u, t, n, i, s, v, x));
         INSERT INTO keys SELECT gen_random_uuid(), t, n * (CASE WHEN n % 2 = 0 THEN 1 ELSE -1 END), -n, n % 100, v, v || E'\\t\n\\\\' || n
         FROM generate_series(1, 400) n
         CROSS JOIN LATERAL (SELECT timestamp '2000-01-01' + (random() - 0.5) * interval '4000 years'
             + n * interval '17.000001 s' AS t, chr(64 + n % 700) AS v) r;
         INSERT INTO keys SELECT gen_random_uuid(), t::timestamp, 9223372036854775807, -2147483648, -32768, '', 'ü' FROM unnest(ARRAY[
             'infinity', '-infinity', '4713-01-01 00:00:00 BC', '0001-12-31 23:59:59.999999 BC', '0001-01-01', '294276-12-31 23:59:59.999999',
             '10000-01-01 00:00:00.1', '2024-02-29 12:00:00.000001', '1900-03-01', '2100-02-28 23:59:59.5']) t;
         CREATE TABLE other_keys (d date, z timestamptz, PRIMARY KEY (d, z));
         INSERT INTO other_keys SELECT date '2025-01-01' + n, timestamptz '2025-03-30 00:00+01' + n * interval '7 min' FROM generate_series(1, 99) n",
    );
    let mut options = site.increment_options();
    options.tables = ["keys", "other_keys"].map(|name| name.parse().unwrap()).to_vec();
    let run =
        || async { dbagent::ops::increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap() };
    run().await;
    site.ask("DELETE FROM keys WHERE i % 50 = 0; UPDATE keys SET x = 'new' WHERE i % 77 = 0; DELETE FROM other_keys WHERE d = '2025-02-02'");
    let outcome = run().await;
    assert_eq!(newest(&site).await.verb, Verb::Increment, "{outcome:?}");
    for (name, left) in [("keys", 402), ("other_keys", 98)] {
        let change = record(&site, name).await.change.unwrap();
        assert_eq!((change.whole, change.rows, change.marked.is_some()), (None, left, true), "{name}: {outcome:?}");
    }
    assert_restores_equal(&site, &["keys", "other_keys"], "keys printed by the agent").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f86_generated_identity_cyclic_and_triggered_tables_come_back_untouched() {
    let site = Site::new();
    site.ask(
        "CREATE TABLE a (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, b int, up int REFERENCES a, twice int GENERATED ALWAYS AS (b * 2) STORED); \
         CREATE TABLE b (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, a int REFERENCES a DEFERRABLE INITIALLY DEFERRED, n int UNIQUE); \
         ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b ON DELETE CASCADE; \
         CREATE TABLE told (what text); \
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.told VALUES (TG_OP); RETURN NULL; END'; \
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON a FOR EACH ROW EXECUTE FUNCTION tell(); \
         ALTER TABLE a ENABLE ALWAYS TRIGGER tell; \
         INSERT INTO b (n) SELECT g FROM generate_series(1, 50) g; INSERT INTO a (b, up) SELECT g, NULL FROM generate_series(1, 50) g; \
         UPDATE a SET up = 51 - id; UPDATE b SET a = 51 - id",
    );
    let tables = ["a", "b", "told"];
    assert!(!increment_of(&site, &tables).await);
    site.ask("UPDATE a SET up = NULL WHERE up IN (7, 8); UPDATE b SET a = NULL WHERE a IN (7, 8); DELETE FROM b WHERE id IN (7, 8)");
    site.ask("BEGIN; UPDATE b SET n = -1 WHERE n = 1; UPDATE b SET n = 1 WHERE n = 2; UPDATE b SET n = 2 WHERE n = -1; COMMIT");
    site.ask("INSERT INTO b (n) VALUES (900); INSERT INTO a (b) VALUES (51); ALTER SEQUENCE a_id_seq RESTART 4711");
    assert!(increment_of(&site, &tables).await);
    assert_restores_equal(&site, &tables, "no trigger fired, no key was in the way").await;
    site.restore_database("again").await.unwrap();
    for sequence in ["a_id_seq", "b_id_seq"] {
        let value = format!("SELECT last_value, is_called FROM {sequence}");
        assert_eq!(site.server.sql_in("again", &value).unwrap().trim(), site.ask(&value), "{sequence}");
    }
    site.ask(
        "CREATE ROLE reader LOGIN; GRANT SELECT ON a, b, told TO reader; GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO reader; \
         ALTER TABLE a ENABLE ROW LEVEL SECURITY",
    );
    let mut doors = site.dump_doors();
    doors.connection = site.connection().with_role(Some("reader"));
    let options = dump::Options { tables: vec!["a".parse().unwrap()], ..site.increment_options() };
    let refused = increment::run(&options, &doors, None, &site.setting()).await.unwrap_err();
    assert!(refused.full_message().contains("row-level security hides rows"), "{}", refused.full_message());
}

#[tokio::test(flavor = "multi_thread")]
async fn f87_large_objects_are_as_of_the_full_dump_and_that_is_said() {
    let site = Site::new();
    site.ask("SELECT lo_from_bytea(4711, 'before')");
    let options = dump::Options { large_objects: true, ..site.increment_options() };
    let run = || async { increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap() };
    run().await;
    site.ask("SELECT lo_put(4711, 0, 'after!'); DELETE FROM orders WHERE id = 1");
    let outcome = run().await;
    assert_eq!(newest(&site).await.verb, Verb::Increment);
    assert!(outcome.findings.iter().any(|finding| finding.code == "large-objects-not-incremental"), "{outcome:?}");
    site.restore_database("copy").await.unwrap();
    assert_eq!(site.server.sql_in("copy", "SELECT encode(lo_get(4711), 'escape')").unwrap().trim(), "before");
}

#[tokio::test(flavor = "multi_thread")]
async fn f88_a_reading_that_the_server_cancels_leaves_nothing_and_the_next_one_works() {
    let site = Site::new();
    site.ask("CREATE TABLE many (id int PRIMARY KEY, v text); INSERT INTO many SELECT g, 'v' FROM generate_series(1, 400000) g");
    assert!(!increment_of(&site, &["many"]).await);
    site.ask("UPDATE many SET v = 'w' WHERE id % 50 = 0");
    let before = site.artifacts("local").await.len();
    let canceller = session(&site).await;
    let cancelling = tokio::spawn(async move {
        let cancel = "SELECT count(*) FILTER (WHERE pg_cancel_backend(pid)) FROM pg_stat_activity WHERE query LIKE 'COPY (SELECT t.%' AND state = 'active'";
        for _ in 0..20_000 {
            let row = canceller.client().query_one(cancel, &[]).await.unwrap();
            if row.get::<_, i64>(0) > 0 {
                return true;
            }
        }
        false
    });
    let options = dump::Options { tables: vec!["many".parse().unwrap()], ..site.increment_options() };
    let failure = increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap_err();
    assert!(cancelling.await.unwrap(), "nothing was cancelled");
    assert!(failure.full_message().contains("cancel"), "{}", failure.full_message());
    assert_eq!(site.artifacts("local").await.len(), before);
    assert!(increment_of(&site, &["many"]).await);
    assert_restores_equal(&site, &["many"], "after the cancelled one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f89_freezing_and_rewriting_tables_loses_nothing() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("UPDATE orders SET note = 'before the freeze' WHERE id % 100 = 0; DELETE FROM orders WHERE id % 100 = 1");
    site.ask("VACUUM FREEZE");
    site.ask("VACUUM FULL customers");
    site.ask("CLUSTER orders USING orders_pkey");
    incremented(&site).await;
    assert_eq!(record(&site, "orders").await.change.unwrap().stored.rows, 30);
    assert_restores_equal(&site, &QUOTED, "frozen after they were written").await;
    site.ask("VACUUM (FULL, FREEZE)");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "frozen and rewritten").await;
}
