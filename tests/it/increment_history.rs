//! Histories that end or turn: recovery to an earlier time, files put back, transaction ids that jump.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use dbagent::model::outcome::Outcome;
use dbagent::model::verb::Verb;

use crate::increment::{QUOTED, assert_restores_equal, incremented, newest};
use crate::stage::site::Site;

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    assert!(Command::new("cp").args(["-a".as_ref(), from.as_os_str(), to.as_os_str()]).status().unwrap().success());
}

/// Stops the server, does something to its files, and starts it again.
fn while_stopped(site: &mut Site, work: impl FnOnce(&Path)) {
    site.server.stop();
    let data = site.server.data_directory();
    work(&data);
    site.server.resume().unwrap();
}

fn as_server(site: &Site, mut command: Command) {
    if let Some((user, group)) = site.server.run_as() {
        command.uid(user).gid(group);
    }
    let output = command.current_dir("/").output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn assert_full(site: &Site, outcome: &Outcome, why: &str) {
    assert_eq!(newest(site).await.verb, Verb::Dump, "{outcome:?}");
    let finding = outcome.findings.iter().find(|finding| finding.code == "full-instead-of-increment").unwrap();
    assert!(finding.message.contains(why), "{}", finding.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn f60_after_a_recovery_to_an_earlier_time_the_chain_begins_anew() {
    let mut site = Site::new();
    let base = site.root().join("base");
    site.dump().await.unwrap();
    site.ask("UPDATE orders SET note = 'seen before and after' WHERE id < 100");
    while_stopped(&mut site, |data| copy(data, &base));
    site.ask("DELETE FROM orders WHERE id > 1000; UPDATE customers SET name = 'never happened' WHERE id < 300");
    site.ask("INSERT INTO orders (customer, note) SELECT 1, repeat('wal', 300) FROM generate_series(1, 3000)");
    incremented(&site).await;
    let lost = newest(&site).await;
    while_stopped(&mut site, |data| {
        copy(&base, data);
        let settings = data.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&settings).unwrap();
        text.push_str("restore_command = 'false'\n");
        std::fs::write(&settings, text).unwrap();
        let owner = Command::new("chown").arg("--reference").arg(data).arg(&settings).status().unwrap();
        assert!(owner.success());
        std::fs::write(data.join("recovery.signal"), "").unwrap();
        assert!(
            Command::new("chown")
                .arg("--reference")
                .arg(data)
                .arg(data.join("recovery.signal"))
                .status()
                .unwrap()
                .success()
        );
    });
    assert_eq!(site.ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000002");
    // As many transactions and as much WAL as the lost history had: only the timeline tells.
    site.ask("UPDATE customers SET name = 'in the new history' WHERE id > 250");
    site.ask("INSERT INTO orders (customer, note) SELECT 2, repeat('log', 300) FROM generate_series(1, 9000)");
    for _ in 0..20 {
        site.ask("UPDATE orders SET note = 'again' WHERE id = 5");
    }
    let position = site.ask("SELECT pg_current_wal_insert_lsn()").parse::<dbagent::model::lsn::Lsn>().unwrap();
    assert!(position > lost.source.lsn.unwrap(), "the new history is not past the lost one");
    let outcome = site.increment().await.unwrap();
    assert_full(&site, &outcome, "recovered or failed over: timeline 1 then, 2 now").await;
    site.ask("DELETE FROM orders WHERE id = 6");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "the new history").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promotion_after_the_parent_goes_on_with_the_chain() {
    let mut site = Site::new();
    site.dump().await.unwrap();
    site.ask("UPDATE orders SET note = 'on timeline 1' WHERE id < 100");
    while_stopped(&mut site, |data| {
        let settings = data.join("postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&settings).unwrap();
        text.push_str("restore_command = 'false'\n");
        std::fs::write(&settings, text).unwrap();
        for name in ["postgresql.auto.conf", "recovery.signal"] {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(data.join(name)).unwrap();
            drop(file);
            assert!(
                Command::new("chown").arg("--reference").arg(data).arg(data.join(name)).status().unwrap().success()
            );
        }
    });
    assert_eq!(site.ask("SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"), "00000002");
    site.ask("DELETE FROM orders WHERE id BETWEEN 50 AND 150");
    incremented(&site).await;
    assert_eq!(newest(&site).await.source.timeline.unwrap().0, 2);
    assert_restores_equal(&site, &QUOTED, "over the promotion").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_put_back_from_before_the_parent_begin_the_chain_anew() {
    let mut site = Site::new();
    let base = site.root().join("base");
    while_stopped(&mut site, |data| copy(data, &base));
    site.ask("DELETE FROM orders WHERE id > 1000");
    site.dump().await.unwrap();
    while_stopped(&mut site, |data| copy(&base, data));
    let outcome = site.increment().await.unwrap();
    assert_full(&site, &outcome, "the WAL ran backwards").await;
    assert_restores_equal(&site, &QUOTED, "the files put back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f89_transaction_ids_that_jump_ahead_lose_nothing() {
    let mut site = Site::new();
    let bin = site.tools().pg_dump.path.parent().unwrap().to_owned();
    site.dump().await.unwrap();
    let jump = |site: &mut Site, to: u64, segment: &str| {
        site.ask("VACUUM FREEZE");
        site.ask("ALTER DATABASE template0 ALLOW_CONNECTIONS true");
        for database in ["postgres", "template0", "template1"] {
            site.server.sql_in(database, "VACUUM FREEZE").unwrap();
        }
        site.server.stop();
        let data = site.server.data_directory();
        let mut command = Command::new(bin.join("pg_resetwal"));
        command.args(["-f", "-x", &to.to_string()]).arg(&data);
        as_server(site, command);
        let log = data.join("pg_xact").join(segment);
        std::fs::write(&log, vec![0; 256 << 10]).unwrap();
        assert!(Command::new("chown").arg("--reference").arg(&data).arg(&log).status().unwrap().success());
        site.server.resume().unwrap();
    };
    // A billion transactions: ages still tell.
    jump(&mut site, 1 << 30, "0400");
    site.ask("UPDATE orders SET note = 'a billion later' WHERE id < 50; DELETE FROM orders WHERE id > 2990");
    incremented(&site).await;
    assert_restores_equal(&site, &QUOTED, "a billion transactions later").await;
    // More than 2^31 after the dump: ages say nothing any more.
    let parent = site.artifacts("local").await.remove(0);
    let increments = site.artifacts("local").await.remove(1);
    let folder = site.root().join("local");
    std::fs::remove_file(folder.join(increments.name.manifest().unwrap().as_str())).unwrap();
    jump(&mut site, (1 << 31) + (1 << 20), "0801");
    site.ask("UPDATE orders SET note = 'very much later' WHERE id < 60");
    let outcome = site.increment().await.unwrap();
    assert_full(&site, &outcome, "transactions have begun since").await;
    assert!(parent.manifest.source.snapshot.is_some());
    assert_restores_equal(&site, &QUOTED, "more than 2^31 transactions later").await;
}
