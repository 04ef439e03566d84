//! Tables that the log proves untouched are left out of an increment, and nothing else is.

use dbagent::model::manifest::TableRecord;
use dbagent::model::verb::Verb;
use dbagent::ops::increment;
use dbagent::postgres::Session;

use crate::increment::{QUOTED, assert_restores_equal, incremented, newest, record};
use crate::stage::site::Site;

/// Whether the newest increment left the table out on the log's word.
async fn left_out(site: &Site, table: &str) -> bool {
    is_left_out(&record(site, table).await)
}

fn is_left_out(record: &TableRecord) -> bool {
    let change = record.change.as_ref().unwrap();
    assert!(change.untouched.is_none() || (change.stored.rows, &change.marked, change.whole) == (0, &None, None));
    change.untouched.is_some()
}

/// Summaries are of whole segments: what comes from here on is told apart from what came before.
fn switch(site: &Site) {
    site.ask("SELECT pg_logical_emit_message(false, 'test', 'x')");
    site.ask("SELECT pg_switch_wal()");
}

async fn session(site: &Site) -> Session {
    let session = site.connection().connect().await.unwrap();
    session.batch("SET search_path = public").await.unwrap();
    session
}

/// A site with its full dump, and an increment made while no transaction was open.
async fn begun(settings: &[(&str, &str)]) -> Site {
    let settings: Vec<_> = settings.iter().copied().chain([("autovacuum", "off")]).collect();
    let site = Site::with(&settings);
    // Otherwise the dump's reading sets hint bits, which the log of a cluster with checksums has.
    site.ask("VACUUM");
    switch(&site);
    site.dump().await.unwrap();
    site.ask("UPDATE customers SET name = 'begun' WHERE id = 3");
    switch(&site);
    incremented(&site).await;
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_touch_is_not_read_and_comes_back() {
    let site = begun(&[]).await;
    assert!(!left_out(&site, "customers").await && left_out(&site, "orders").await);
    assert!(left_out(&site, "events_2026_01").await, "also without a key");
    let mut before: &[&str] = &["customers"];
    for hour in 0..4 {
        let change = match hour {
            0 => "UPDATE orders SET note = 'one' WHERE id = 70",
            1 => "INSERT INTO events VALUES ('2026-01-05', 'late', NULL); DELETE FROM events WHERE at < '2026-01-01'",
            2 => "TRUNCATE events_2026_02; INSERT INTO events VALUES ('2026-02-05', 'anew', NULL)",
            _ => "VACUUM FULL customers",
        };
        site.ask(change);
        switch(&site);
        incremented(&site).await;
        let out: Vec<String> = newest(&site)
            .await
            .tables
            .iter()
            .filter(|record| record.change.is_some() && is_left_out(record))
            .map(|record| record.table.name.clone())
            .collect();
        let read: &[&str] = match hour {
            0 => &["orders"],
            1 => &["events_2026_01", "events_default"],
            2 => &["events_2026_02"],
            _ => &["customers"],
        };
        assert!(read.iter().all(|name| !out.iter().any(|other| other == name)), "hour {hour}: {out:?}");
        // What the hour before changed may have got hint bits by being read, which the log of a cluster with checksums has.
        for record in newest(&site).await.tables.iter().filter(|record| record.change.is_some()) {
            let name = record.table.name.as_str();
            assert!(
                out.contains(&record.table.name) || read.contains(&name) || before.contains(&name),
                "hour {hour}: {name}"
            );
        }
        before = read;
        assert_restores_equal(&site, &QUOTED, change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_written_before_the_parent_and_committed_after_it_is_read() {
    let site = begun(&[("max_prepared_transactions", "5")]).await;
    let (late, nested) = (session(&site).await, session(&site).await);
    late.batch("BEGIN; UPDATE orders SET note = 'late' WHERE id < 50").await.unwrap();
    nested
        .batch("BEGIN; SAVEPOINT a; INSERT INTO events VALUES ('2026-01-07', 'nested', NULL); RELEASE a")
        .await
        .unwrap();
    session(&site)
        .await
        .batch("BEGIN; DELETE FROM \"Odd \"\"name\"\"\" WHERE \"a.b\" = 9; PREPARE TRANSACTION 'p'")
        .await
        .unwrap();
    // All three have written before this parent's snapshot, the latest of them after the last that ended.
    for _ in 0..3 {
        incremented(&site).await;
        assert_restores_equal(&site, &QUOTED, "while they are open").await;
    }
    late.batch("COMMIT").await.unwrap();
    nested.batch("COMMIT").await.unwrap();
    site.server.sql_in("shop", "COMMIT PREPARED 'p'").unwrap();
    switch(&site);
    incremented(&site).await;
    for table in ["orders", "events_2026_01", "Odd \"name\""] {
        assert!(!left_out(&site, table).await, "{table}");
    }
    assert_restores_equal(&site, &QUOTED, "they have ended").await;
    // The reading of what changed sets hint bits, which the log of a cluster with checksums has.
    for _ in 0..2 {
        incremented(&site).await;
        switch(&site);
    }
    incremented(&site).await;
    assert!(left_out(&site, "orders").await, "nothing is open, and the parent has it all");
    assert_restores_equal(&site, &QUOTED, "at rest").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_did_not_wait_for_the_disk_is_read() {
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("wal_keep_size", "256MB")];
    let site = begun(&settings).await;
    for round in 0..5 {
        let writer = session(&site).await;
        writer.batch(&format!("UPDATE orders SET note = 'soon {round}' WHERE id = {round} + 1")).await.unwrap();
        incremented(&site).await;
        assert!(!left_out(&site, "orders").await, "round {round}");
        assert!(left_out(&site, "events_2026_02").await, "round {round}: nothing is known");
        assert_restores_equal(&site, &QUOTED, "not on the disk yet").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_tell_is_read() {
    let site = begun(&[("wal_keep_size", "0")]).await;
    // A table that is not logged at all.
    site.ask("ALTER TABLE orders SET UNLOGGED");
    switch(&site);
    incremented(&site).await;
    assert!(left_out(&site, "events_2026_01").await);
    site.ask("UPDATE orders SET note = 'not logged' WHERE id = 5");
    incremented(&site).await;
    assert!(!left_out(&site, "orders").await && left_out(&site, "events_2026_01").await);
    assert_restores_equal(&site, &QUOTED, "unlogged").await;
    // Segments that pg_wal has no more and nobody summed up.
    site.ask("UPDATE events SET what = 'recycled' WHERE at < '2026-01-02'");
    for _ in 0..2 {
        site.server.sql("SELECT pg_logical_emit_message(false, 'test', 'x')").unwrap();
        site.server.sql("SELECT pg_switch_wal()").unwrap();
        site.server.sql("CHECKPOINT").unwrap();
    }
    std::fs::remove_dir_all(site.root().join("state")).unwrap();
    incremented(&site).await;
    assert!(!left_out(&site, "events_2026_02").await, "nobody knows");
    assert_restores_equal(&site, &QUOTED, "the log is gone").await;
    switch(&site);
    incremented(&site).await;
    assert!(left_out(&site, "events_2026_02").await, "it is known again");
    // A busy hour of the log that nobody summed up.
    (0..6).for_each(|_| switch(&site));
    incremented(&site).await;
    assert!(!left_out(&site, "events_2026_02").await, "to read so much of it would take long");
    incremented(&site).await;
    assert!(left_out(&site, "events_2026_02").await, "it is known again");
    // Files of another server.
    let other = Site::new();
    let log = increment::Log { data_directory: other.server.data_directory(), ..site.log() };
    site.ask("DELETE FROM events WHERE at > '2026-03-01'");
    increment::run(&site.increment_options(), &site.dump_doors(), Some(&log), &site.setting()).await.unwrap();
    assert_eq!(newest(&site).await.verb, Verb::Increment);
    assert!(!left_out(&site, "events_2026_02").await, "another cluster's log");
    assert_restores_equal(&site, &QUOTED, "another cluster's log").await;
}

/// Lets the server crash and recover, as it does by itself when a process of it dies.
async fn crash(site: &Site) {
    let (connection, deadline) = (site.connection(), std::time::Instant::now() + std::time::Duration::from_secs(30));
    let (victim, witness) = (connection.connect().await.unwrap(), connection.connect().await.unwrap());
    let process: i32 = victim.client().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    crate::stage::agent::signal(process.cast_unsigned(), "KILL");
    // The server ends every other session when it notices; it takes new ones only once it has recovered.
    while witness.client().query_one("SELECT 1", &[]).await.is_ok() || connection.connect().await.is_err() {
        assert!(std::time::Instant::now() < deadline, "the server did not come back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// A commit that did not wait for the disk is seen before it is there. A dump that has it makes sure of it first:
/// after a crash the server would give its number and its keys to other transactions, which no increment would see.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_dump_or_an_increment_holds_outlasts_a_crash_of_the_server() {
    // The only thing that would write commits to the disk in this time is the one that is asked to.
    let settings = [("synchronous_commit", "off"), ("wal_writer_delay", "10s"), ("restart_after_crash", "on")];
    let site = Site::with(&settings);
    let rows = "SELECT count(*) FROM customers WHERE email LIKE 'late%'";
    for round in 1..=3 {
        site.ask(&format!("INSERT INTO customers (email) VALUES ('late{round}@example.org')"));
        if round == 1 {
            site.dump().await.unwrap();
        } else {
            incremented(&site).await;
        }
        crash(&site).await;
        assert_eq!(site.ask(rows), round.to_string(), "the crash took what the dump has");
    }
    assert_restores_equal(&site, &QUOTED, "after crashes").await;
}
