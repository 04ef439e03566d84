//! What is in the database: values, sizes and encodings that a dump and its restore must carry unchanged, or name.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dbagent::model::event::{Event, Events};
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::ops::{Setting, dump, restore};

use crate::stage::site::Site;
use crate::stage::standby::Standby;

/// Dumps `tables` of `database`.
async fn dump_of(site: &Site, database: &str, tables: &[&str]) -> Result<(), Failure> {
    let mut doors = site.dump_doors();
    doors.connection = site.connection().with_database(database);
    let tables = tables.iter().map(|table| table.parse().unwrap()).collect();
    let options = dump::Options { tables, ..site.dump_options() };
    dump::run(&options, &doors, &site.setting()).await.map(drop)
}

/// Restores the latest dump into `name`, which ends in the proof; then compares `query` with its answer in `database`.
async fn comes_back(site: &Site, database: &str, name: &str, query: &str) {
    let restored = site.restore_database(name).await.unwrap();
    assert!(!restored.proofs.is_empty() && restored.proofs.iter().all(|proof| proof.holds()));
    let [there, here] = [database, name].map(|database| site.server.sql_in(database, query).unwrap());
    assert!(!here.is_empty() && here == there, "{database}\n{there}\n{name}\n{here}");
}

/// Every kind of value whose text depends on settings, or is at the edge of its type.
const KINDS: &str = "
    CREATE EXTENSION hstore;
    CREATE TYPE colour AS ENUM ('red', 'dark blue', 'it''s \"green\"', E'tab\\there');
    CREATE DOMAIN positive AS numeric CHECK (VALUE > 0);
    CREATE TYPE pair AS (a int, b text, c colour[]);
    CREATE TYPE spans AS RANGE (subtype = float8);
    CREATE TABLE kinds (id int PRIMARY KEY, colour colour, positive positive, pair pair, pairs pair[], ints int[][],
        texts text[], numbers numeric, f4 float4, f8 float8, stamp timestamptz, plain timestamp, day date, clock timetz,
        period interval, price money, things hstore, range tstzrange, multi int4multirange, own spans, bits varbit(40),
        raw bytea, document jsonb, json json, page xml, address inet, mac macaddr8, place point, shape polygon,
        search tsvector, query tsquery, uid uuid, quiet char(10), bare \"char\", lsn pg_lsn, path jsonpath);
    INSERT INTO kinds VALUES
    (1, 'red', 0.1, '(1,\"a,b\",\"{red,\"\"dark blue\"\"}\")', ARRAY[ROW(1, NULL, NULL)::pair, NULL], '{{1,2},{3,NULL}}',
        ARRAY['', 'NULL', NULL, 'a\"b\\c', E'\\n'], 'NaN', 'Infinity', '-0', 'infinity', '-infinity', 'infinity',
        '23:59:60+14', '-1 year -2 days +03:04:05.000006', '-$1,234.56', '\"a b\"=>NULL, c=>\"\"', '[2026-01-01,infinity)',
        '{[1,3),[5,8)}', '(-Infinity,NaN]', '1010', '\\x00ff5c0a', '{\"a\": 1.00, \"b\": [null, \"\\u00fc\"]}',
        '{\"z\" : 1,  \"a\":2}', '<a>&lt;</a>', 'fe80::1/64', '08:00:2b:01:02:03:04:05', '(-0,1e308)', '((0,0),(1,1e-300))',
        '''a'':1A b:2', '!a & (b | c:*)', '00000000-0000-0000-0000-000000000001', 'x', 'c', '16/B374D848', '$.a[*] ? (@ > 1)'),
    (2, E'tab\\there', 1e-200, NULL, '{}', '{}', '{}', '-Infinity', 'NaN', 5e-324, '0044-03-15 BC', '294276-12-31 23:59:59.999999',
        '4713-01-01 BC', '00:00-15:59', '178000000 years', '$92,233,720,368,547,758.07', '', 'empty', '{}', 'empty', '', '',
        'null', '[]', NULL, '0.0.0.0/0', NULL, '(NaN,Infinity)', NULL, '', NULL, NULL, '', '', '0/0', '$'),
    (3, NULL, 12345678901234567890.000100, '(,,)', NULL, '[0:1]={1,2}', '[-1:0]={a,b}', 1e1000, 1.17549435e-38, 0.1,
        '2026-03-29 01:30:00+00', '2026-03-29 02:30:00', '5874897-12-31', '02:30:00.5+01', 'P1Y2M3DT4H5M6.7S', 0, 'k=>\"v\\\"w\"',
        '(,)', '{(,)}', '[0.1,0.1]', '1', decode(repeat('00ff', 500), 'hex'), '\"\\\\u0000 as text\"', '\"\\ud83d\\ude00\"', NULL,
        '::', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
    ALTER DATABASE shop SET datestyle = 'German, DMY'; ALTER DATABASE shop SET intervalstyle = 'sql_standard';
    ALTER DATABASE shop SET extra_float_digits = -15; ALTER DATABASE shop SET bytea_output = 'escape';
    ALTER DATABASE shop SET timezone = 'Asia/Tokyo'; ALTER DATABASE shop SET xmlbinary = 'hex';
    ALTER DATABASE shop SET standard_conforming_strings = off; ALTER DATABASE shop SET quote_all_identifiers = on;
    ALTER DATABASE shop SET array_nulls = off; ALTER DATABASE shop SET transform_null_equals = on";

/// Every value under settings that lose nothing.
const ALL_KINDS: &str = "SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; \
    SET bytea_output = 'hex'; SET timezone = 'UTC'; SET lc_monetary = 'C'; SELECT k::text FROM kinds k ORDER BY id";

#[tokio::test(flavor = "multi_thread")]
async fn f85_values_at_the_edge_of_every_type_come_back_equal_whatever_the_database_is_set_to() {
    let site = Site::new();
    site.ask(KINDS);
    dump_of(&site, "shop", &["kinds"]).await.unwrap();
    comes_back(&site, "shop", "copy", ALL_KINDS).await;
    let edges =
        "SELECT count(*) FROM kinds WHERE f8::text = '-0' OR stamp = 'infinity' OR numbers = 'NaN' OR f4 = 'NaN'";
    assert_eq!(site.server.sql_in("copy", edges).unwrap().trim(), "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn f84_every_encoding_comes_back_byte_by_byte_invalid_bytes_included() {
    let site = Site::new();
    // E'' strings by their bytes: psql speaks UTF8 here, and SQL_ASCII takes what comes.
    let rows = |value: &str, name: &str| {
        format!(
            "CREATE TABLE \"{name}\" (id int PRIMARY KEY, t text); INSERT INTO \"{name}\" \
             SELECT n, {value} || n FROM generate_series(1, 300) n"
        )
    };
    let cases = [
        ("latin1", "LATIN1", rows("'für Zoë ½'", "t"), "t"),
        ("eucjp", "EUC_JP", rows("'バックアップ 監査'", "t"), "t"),
        ("ascii", "SQL_ASCII", rows("E'\\xff\\xfe\\x80 any \\xe4 ' || E'\\xc3\\xbc'", "t"), "t"),
        ("ascii_names", "SQL_ASCII", rows("'plain'", "größe"), "größe"),
        ("win", "WIN1252", rows("'€ „quoted“'", "t"), "t"),
    ];
    let count = if cfg!(feature = "long") { cases.len() } else { 3 };
    for (database, encoding, statements, table) in cases.into_iter().take(count) {
        site.server
            .sql(&format!("CREATE DATABASE {database} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0"))
            .unwrap();
        site.server.sql_in(database, &statements).unwrap();
        dump_of(&site, database, &[&format!("\"{table}\"")]).await.unwrap_or_else(|error| {
            panic!("{database}: {}", error.full_message());
        });
        let latest = site.artifacts("local").await.pop().unwrap().manifest;
        assert_eq!(latest.source.encoding, encoding, "recorded");
        let bytes = format!(
            "SELECT md5(string_agg(convert_to(t, getdatabaseencoding()), '' ORDER BY id)), count(*), min(pg_encoding_to_char(encoding)) \
             FROM \"{table}\", pg_database WHERE datname = current_database()"
        );
        comes_back(&site, database, &format!("{database}_copy"), &bytes).await;
    }
    // Names in another encoding are refused before anything is dumped.
    site.server.sql_in("eucjp", &rows("'x'", "監査ログ")).unwrap();
    let failure = dump_of(&site, "eucjp", &["監査ログ"]).await.unwrap_err();
    assert!(failure.message.contains("監査ログ") && failure.message.contains("EUC_JP"), "{}", failure.full_message());
}

#[tokio::test(flavor = "multi_thread")]
async fn f83_the_widest_table_and_very_long_values_come_back() {
    let site = Site::new();
    let columns = |of: &str| (1..=1600).map(|n| of.replace('#', &n.to_string())).collect::<Vec<_>>().join(", ");
    let values = columns("n % (# + 7)");
    site.ask(&format!(
        "CREATE TABLE wide ({}); INSERT INTO wide SELECT {values} FROM generate_series(1, 100) n",
        columns("\"column number # of many\" smallint")
    ));
    let megabytes = if cfg!(feature = "long") { 300 } else { 12 };
    site.ask(&format!(
        "CREATE TABLE long AS SELECT n AS id, repeat(md5(n::text) || E'\\\\\\n\\t', {megabytes} * 29000) AS t \
         FROM generate_series(1, 2) n"
    ));
    dump_of(&site, "shop", &["wide", "long"]).await.unwrap();
    let query = "SELECT (SELECT md5(string_agg(w::text, ',' ORDER BY w::text)) FROM wide w), \
                 (SELECT string_agg(md5(t) || length(t), ',' ORDER BY id) FROM long)";
    comes_back(&site, "shop", "copy", query).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f83_rows_of_hundreds_of_megabytes_come_back_wherever_their_key_stands() {
    let site = Site::new();
    // As text they take twice as much, and the key stands before, between and after.
    let megabytes = if cfg!(feature = "long") { 250 } else { 12 };
    site.ask(&format!(
        "CREATE TABLE huge (b text, raw bytea, a int, more bytea, PRIMARY KEY (a, b)); \
         ALTER TABLE huge ALTER raw SET STORAGE external; \
         INSERT INTO huge SELECT 'key ' || n, decode(repeat(md5(n::text), {megabytes} * 65536), 'hex'), n, \
             decode(repeat('0a5c2e09', 300000), 'hex') FROM generate_series(1, 2) n; \
         INSERT INTO huge SELECT 'small', NULL, n, '' FROM generate_series(3, 300) n"
    ));
    dump_of(&site, "shop", &["huge"]).await.unwrap();
    let query = "SELECT string_agg(concat_ws(' ', a, b, md5(raw), length(raw), md5(more)), ',' ORDER BY a) FROM huge";
    comes_back(&site, "shop", "copy", query).await;
    // The key sums were right: nothing is copied but what changed.
    site.ask("DELETE FROM huge WHERE a IN (2, 7); UPDATE huge SET more = 'x' WHERE a = 8");
    let options = dump::Options { tables: vec!["huge".parse().unwrap()], ..site.increment_options() };
    dbagent::ops::increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap();
    let newest = site.artifacts("local").await.pop().unwrap().manifest;
    let change = newest.tables[0].change.as_ref().unwrap();
    assert!(change.whole.is_none() && change.stored.rows == 1 && change.rows == 298, "{change:?}");
    comes_back(&site, "shop", "second", query).await;
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn f83_a_value_too_long_for_its_text_form_is_named_with_a_way_out() {
    let site = Site::new();
    // 600 MB take 1.2 GB as hexadecimal digits; a text ends at 1 GB.
    site.ask("CREATE TABLE huge AS SELECT 1 AS id, convert_to(repeat('x', 600000000), 'UTF8') AS raw");
    let failure = dump_of(&site, "shop", &["orders", "huge"]).await.unwrap_err();
    let message = failure.full_message();
    assert!(message.contains("huge") && message.contains("invalid memory alloc request size"), "{message}");
    assert!(failure.hint.as_deref().is_some_and(|hint| hint.contains("1 GB")), "{:?}", failure.hint);
    assert!(site.artifacts("local").await.is_empty());
    dump_of(&site, "shop", &["orders"]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f88_a_dump_from_a_standby_that_replay_cancelled_says_why_and_with_feedback_it_is_not() {
    let site = Arc::new(Site::new());
    let standby = Arc::new(Standby::of(&site.server, &["max_standby_streaming_delay=0"]));
    let mut doors = site.dump_doors();
    doors.connection = standby.connection("shop");
    let conflicts = "SELECT confl_snapshot > 0 FROM pg_stat_database_conflicts WHERE datname = 'shop'";
    // Dead rows are removed on the primary while the dump looks at them.
    let vacuumed = |rows: &'static str| {
        let (primary, standby) = (site.clone(), standby.clone());
        let events = Events::to(move |event| {
            if matches!(&event, Event::Step { text } if text.starts_with("dumping the schema")) {
                primary.ask(&format!("DELETE FROM orders WHERE {rows}"));
                primary.ask("VACUUM orders");
                let end = primary.ask("SELECT pg_current_wal_lsn()");
                let deadline = Instant::now() + Duration::from_secs(30);
                while standby.ask("postgres", &format!("SELECT pg_last_wal_replay_lsn() >= '{end}'")) != "t" {
                    assert!(Instant::now() < deadline, "the standby does not replay");
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        });
        Setting { events, ..site.setting() }
    };
    let failure = dump::run(&site.dump_options(), &doors, &vacuumed("id % 2 = 0")).await.unwrap_err();
    assert_eq!(standby.ask("postgres", conflicts), "t", "the fault never fired");
    assert_eq!(failure.kind, FailureKind::Failed, "a kind that is tried again");
    assert!(failure.hint.as_deref().is_some_and(|hint| hint.contains("hot_standby_feedback")), "{failure:?}");
    assert!(site.artifacts("local").await.is_empty());

    standby.ask("postgres", "ALTER SYSTEM SET hot_standby_feedback = on");
    standby.ask("postgres", "SELECT pg_reload_conf()");
    let deadline = Instant::now() + Duration::from_secs(30);
    let feedback = "SELECT count(*) FROM pg_stat_replication WHERE backend_xmin IS NOT NULL";
    let probe = standby.connection("shop").connect().await.unwrap();
    probe.batch("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1").await.unwrap();
    while site.ask(feedback) != "1" {
        assert!(Instant::now() < deadline, "the standby does not feed back");
        std::thread::sleep(Duration::from_millis(20));
    }
    dump::run(&site.dump_options(), &doors, &vacuumed("id % 3 = 0")).await.unwrap();
    let doors = site.restore_doors();
    let setting = site.setting();
    let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
    assert_eq!(
        choice.manifest().tables.iter().filter_map(|table| table.content).map(|sum| sum.rows).sum::<u64>(),
        6050
    );
}
