//! Increments on a real PostgreSQL: what changed comes back, what is gone stays gone, at every hour, exactly.

use std::collections::BTreeMap;

use dbagent::catalog::Selector;
use dbagent::model::manifest::{Manifest, TableRecord, Whole};
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::model::verb::Verb;
use dbagent::ops::restore::Wanted;

use crate::stage::site::Site;

/// One line for each table of `database` with its rows in order, and the sequences.
pub fn contents(site: &Site, database: &str, tables: &[&str]) -> Vec<String> {
    let mut lines = Vec::new();
    for table in tables {
        let query = format!(
            "SET timezone = 'UTC'; SELECT count(*), coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")), '') FROM {table} t"
        );
        let sum = site.server.sql_in(database, &query).unwrap();
        lines.push(format!("{table} {}", sum.lines().last().unwrap_or_default()));
    }
    lines
}

/// The table as SQL writes it.
pub const QUOTED: [&str; 4] = ["customers", "orders", "events", "\"Odd \"\"name\"\"\""];

pub async fn newest(site: &Site) -> Manifest {
    site.artifacts("local").await.pop().unwrap().manifest
}

pub async fn record(site: &Site, name: &str) -> TableRecord {
    newest(site).await.tables.into_iter().find(|record| record.table.name == name).unwrap()
}

/// The increment's outcome, which must be one and not a full dump.
pub async fn incremented(site: &Site) -> Outcome {
    let outcome = site.increment().await.unwrap();
    assert_eq!(newest(site).await.verb, Verb::Increment, "{outcome:?}");
    outcome
}

/// Restores the newest state beside and compares it with the source as it is now.
pub async fn assert_restores_equal(site: &Site, tables: &[&str], why: &str) {
    let name = format!("copy_{}", site.artifacts("local").await.len());
    site.restore_database(&name).await.unwrap();
    assert_eq!(contents(site, &name, tables), contents(site, "shop", tables), "{why}");
    site.server.sql(&format!("DROP DATABASE {name}")).unwrap();
}

fn wanted(site: &Site, id: &dbagent::model::id::ArtifactId) -> Wanted {
    Wanted { selector: Selector::Prefix(id.to_string()), ..site.wanted(None) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_and_its_increments_restore_to_every_hour() {
    let site = Site::new();
    site.dump().await.unwrap();
    let changes = [
        "UPDATE customers SET name = 'new ' || id WHERE id % 10 = 0; INSERT INTO customers (email) VALUES ('late@example.org')",
        "DELETE FROM orders WHERE id % 7 = 0; DELETE FROM \"Odd \"\"name\"\"\" WHERE \"a.b\" < 5",
        "INSERT INTO orders (customer, note) SELECT 1, 'again ' || n FROM generate_series(1, 300) n; DELETE FROM events WHERE at > '2026-02-10'",
        "UPDATE \"Odd \"\"name\"\"\" SET \"a.b\" = \"a.b\" + 1000 WHERE \"a.b\" > 40; UPDATE orders SET id = -id WHERE id % 5 = 0",
        "SELECT 1",
        "TRUNCATE orders; INSERT INTO orders (customer, note) VALUES (7, E'tab\\tand \\\\. and \"quotes\", (all) of them')",
    ];
    let mut hours = vec![(newest(&site).await.id, contents(&site, "shop", &QUOTED))];
    for change in changes {
        site.ask(change);
        let outcome = incremented(&site).await;
        assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
        hours.push((newest(&site).await.id, contents(&site, "shop", &QUOTED)));
    }
    for (at, (id, then)) in hours.iter().enumerate() {
        let name = format!("hour_{at}");
        let restored = site.restore(&wanted(&site, id), &name).await.unwrap();
        assert!(restored.proofs.iter().all(|proof| proof.holds()));
        assert_eq!(&contents(&site, &name, &QUOTED), then, "hour {at}");
    }
    let last = format!("hour_{}", hours.len() - 1);
    for query in ["SELECT last_value FROM customers_id_seq", "SELECT last_value FROM orders_id_seq"] {
        assert_eq!(site.server.sql_in(&last, query).unwrap().trim(), site.ask(query), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_changed_is_stored() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("UPDATE orders SET note = 'x' WHERE id = 17; INSERT INTO customers (email) VALUES ('one@example.org')");
    incremented(&site).await;
    let (orders, customers, odd) =
        (record(&site, "orders").await, record(&site, "customers").await, record(&site, "Odd \"name\"").await);
    let stored = |record: &TableRecord| record.change.clone().unwrap();
    assert_eq!((stored(&orders).stored.rows, stored(&orders).rows, stored(&orders).marked), (1, 3000, None));
    assert_eq!((stored(&customers).stored.rows, stored(&customers).rows, stored(&customers).marked), (1, 501, None));
    assert_eq!((stored(&odd).stored.rows, odd.content.unwrap().rows), (0, 50), "what is known of it still holds");
    assert_eq!(orders.content, None, "nobody has read all its rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_without_anything_to_build_upon_is_a_full_dump_and_says_so() {
    let site = Site::new();
    let outcome = site.increment().await.unwrap();
    assert_eq!((newest(&site).await.verb, newest(&site).await.job.as_str()), (Verb::Dump, "incremental"));
    assert!(outcome.findings.iter().any(|finding| finding.code == "full-instead-of-increment"), "{outcome:?}");
    site.ask("DELETE FROM orders WHERE id < 100");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "upon a full dump made by the increment's job").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_arrive_by_attach_are_copied_whole() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask(
        "CREATE TABLE waiting (LIKE events); INSERT INTO waiting \
         SELECT '2026-05-03'::timestamptz + n * interval '1 minute', 'waited ' || n, NULL FROM generate_series(1, 200) n; \
         CREATE TABLE keyed (id int PRIMARY KEY, at date) PARTITION BY RANGE (id)",
    );
    let mut options = site.increment_options();
    options.tables.push("keyed".parse().unwrap());
    let run =
        || async { dbagent::ops::increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap() };
    run().await;
    assert_eq!(newest(&site).await.verb, Verb::Dump, "a new table needs a full");
    site.ask("CREATE TABLE keyed_1 (id int PRIMARY KEY, at date); INSERT INTO keyed_1 SELECT n, now() FROM generate_series(1, 99) n");
    run().await;
    assert_eq!(newest(&site).await.verb, Verb::Increment);
    site.ask(
        "ALTER TABLE keyed ATTACH PARTITION keyed_1 FOR VALUES FROM (0) TO (100); \
         ALTER TABLE events ATTACH PARTITION waiting FOR VALUES FROM ('2026-05-01') TO ('2026-06-01')",
    );
    run().await;
    let arrived = record(&site, "keyed_1").await.change.unwrap();
    assert_eq!((arrived.whole, arrived.rows, arrived.stored.rows), (Some(Whole::NewRelation), 99, 99));
    let tables = ["events", "waiting", "keyed", "keyed_1"];
    assert_restores_equal(&site, &tables, "attached").await;
    site.ask("DELETE FROM keyed WHERE id > 50; UPDATE keyed SET at = '2020-02-02' WHERE id = 7");
    run().await;
    let then = record(&site, "keyed_1").await.change.unwrap();
    assert_eq!((then.whole, then.rows, then.stored.rows), (None, 50, 1), "the next increment builds upon it");
    assert_restores_equal(&site, &tables, "changed after it was attached").await;
    site.ask(
        "ALTER TABLE keyed DETACH PARTITION keyed_1; ALTER TABLE events DETACH PARTITION waiting; DROP TABLE waiting",
    );
    run().await;
    assert_restores_equal(&site, &["events", "keyed"], "detached and dropped").await;
    site.ask("INSERT INTO keyed_1 VALUES (99, NULL); ALTER TABLE keyed ATTACH PARTITION keyed_1 FOR VALUES FROM (0) TO (100)");
    run().await;
    assert_eq!(record(&site, "keyed_1").await.change.unwrap().whole, Some(Whole::NewRelation), "it was away");
    assert_restores_equal(&site, &["events", "keyed", "keyed_1"], "attached again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_swapped_by_rename_are_told_apart_by_oid() {
    let site = Site::new();
    site.ask(
        "CREATE TABLE parts (id int, v text, PRIMARY KEY (id)) PARTITION BY RANGE (id); \
         CREATE TABLE parts_a PARTITION OF parts FOR VALUES FROM (0) TO (100); \
         CREATE TABLE parts_b PARTITION OF parts FOR VALUES FROM (100) TO (200); \
         CREATE TABLE other (id int PRIMARY KEY, v text); INSERT INTO other SELECT n, 'other' FROM generate_series(1, 50) n; \
         INSERT INTO parts SELECT n, 'first' FROM generate_series(1, 199) n",
    );
    let mut options = site.increment_options();
    options.tables = vec!["parts".parse().unwrap(), "other".parse().unwrap()];
    let run =
        || async { dbagent::ops::increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap() };
    run().await;
    site.ask("ALTER TABLE parts_a RENAME TO x; ALTER TABLE parts_b RENAME TO parts_a; ALTER TABLE x RENAME TO parts_b");
    site.ask("UPDATE parts SET v = 'second' WHERE id % 10 = 0; DELETE FROM parts WHERE id % 10 = 1");
    run().await;
    assert_eq!(newest(&site).await.verb, Verb::Increment);
    assert_restores_equal(&site, &["parts", "parts_a", "parts_b"], "names swapped, rows stayed").await;
    let stays = record(&site, "parts_a").await.change.unwrap();
    assert_eq!(stays.whole, None, "the relation is known by its oid, whatever it is called");
    site.ask("BEGIN; ALTER TABLE other RENAME TO old; CREATE TABLE other (LIKE old INCLUDING ALL); INSERT INTO other SELECT id, 'new' FROM old; COMMIT");
    run().await;
    let (now, verb) = (record(&site, "other").await, newest(&site).await.verb);
    assert!(verb == Verb::Dump || now.change.unwrap().whole == Some(Whole::NewRelation));
    assert_restores_equal(&site, &["parts", "other"], "a table swapped for another").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_table_comes_back_out_of_full_and_increments() {
    use dbagent::ops::restore::{self, TableMode, TableOptions};

    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("UPDATE customers SET name = 'changed' WHERE id < 20; DELETE FROM orders WHERE id > 2900");
    incremented(&site).await;
    site.ask("INSERT INTO orders (customer, note) VALUES (3, 'late'); DELETE FROM events WHERE at < '2026-01-01'");
    incremented(&site).await;
    let tables = ["customers", "orders", "events"];
    let then = contents(&site, "shop", &tables);
    site.ask("DELETE FROM orders WHERE id < 500; UPDATE orders SET note = 'wrong' WHERE id < 600; INSERT INTO orders (customer) VALUES (1)");
    let (doors, setting) = (site.restore_doors(), site.setting());
    for (table, mode) in [("orders", TableMode::Replace), ("events", TableMode::Beside(None))] {
        let choice = restore::choose(&site.wanted(Some(table)), &doors, &setting).await.unwrap();
        assert_eq!(choice.increments().count(), 2);
        let options = TableOptions {
            table: table.parse().unwrap(),
            mode,
            plan_only: false,
            lock_timeout: std::time::Duration::from_secs(5),
            reindex: false,
        };
        let (_, restored) = restore::restore_table(&options, &choice, &doors, &setting).await.unwrap();
        assert!(restored.unwrap().proofs.iter().all(|proof| proof.holds()));
    }
    assert_eq!(contents(&site, "shop", &tables), then);
    let beside = contents(&site, "shop", &["events_restored"]).remove(0).replace("_restored", "");
    assert_eq!(beside, then[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_need_not_be_exact_is_read_by_time_and_says_so_everywhere() {
    let site = Site::new();
    site.ask("CREATE TABLE log (id int PRIMARY KEY, at timestamp, note text); INSERT INTO log SELECT n, now() - n * interval '10 min', 'old' FROM generate_series(1, 100) n");
    let mut options = site.increment_options();
    options.tables.push("log".parse().unwrap());
    let exact = options.clone();
    options.changed_at = BTreeMap::from([("log".parse().unwrap(), "at".to_owned())]);
    let run = async |options: &dbagent::ops::dump::Options| {
        dbagent::ops::increment::run(options, &site.dump_doors(), None, &site.setting()).await.unwrap()
    };
    run(&options).await;
    assert_eq!(newest(&site).await.verb, Verb::Dump);
    site.ask(
        "DELETE FROM log WHERE id = 7; UPDATE log SET note = 'late' WHERE id = 90; INSERT INTO log VALUES (101, now(), 'new'); \
         UPDATE log SET at = now(), note = 'changed' WHERE id = 50; DELETE FROM orders WHERE id < 9",
    );
    let outcome = run(&options).await;
    assert!(outcome.summary.ends_with("not exact"), "{outcome:?}");
    assert!(
        outcome.findings.iter().any(|finding| finding.code == "not-exact" && finding.message.contains("public.log"))
    );
    let change = record(&site, "log").await.change.unwrap();
    // Those of the hour before the parent, the new one and the changed one.
    assert_eq!((change.stored.rows, change.since.unwrap().column.as_str()), (7, "at"));
    let look = Wanted { plan_only: true, ..site.wanted(None) };
    let looked = dbagent::ops::restore::choose(&look, &site.restore_doors(), &site.setting()).await.unwrap();
    let (rows, uncounted) = looked.rows().unwrap();
    assert_eq!(rows, 500 + 2992 + 4000 + 50 + 100, "of the log as many as were counted last");
    assert_eq!(uncounted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["public.log"]);
    let restored = site.restore_database("copy").await.unwrap();
    assert_eq!(restored.inexact.iter().map(ToString::to_string).collect::<Vec<_>>(), ["public.log"]);
    let query = "SELECT string_agg(id || note, ' ' ORDER BY id) FROM log WHERE id IN (7, 50, 90, 101)";
    assert_eq!(site.server.sql_in("copy", query).unwrap().trim(), "7old 50changed 90old 101new");
    assert_eq!(contents(&site, "copy", &QUOTED), contents(&site, "shop", &QUOTED), "the others are exact");
    let outcome = run(&exact).await;
    let change = record(&site, "log").await.change.unwrap();
    assert_eq!((change.whole, change.since), (Some(Whole::OtherForm), None), "{outcome:?}");
    assert_restores_equal(&site, &["log", "orders"], "exact again").await;
}
