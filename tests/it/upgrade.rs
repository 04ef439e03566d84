//! A cluster that pg_upgrade has replaced: another system identifier, the same repository, segment names that go on. Each
//! system's base backups lead to the end of its own log, and neither holds nor hides the other's.

use std::time::{Duration, Instant};

use dbagent::model::lsn::Timeline;
use dbagent::model::wal::{SegmentName, SegmentSize};
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::expire_wal::{bases, bases_in, desk, generations, require_restorable, segments};
use crate::recover::{Acknowledged, Copy, commit, ledger, place, walk};
use crate::stage::archive::switch;

/// Puts a new cluster in the place of the old one, as pg_upgrade leaves it: of another system, its log begun so many
/// segments behind the old one's last, whose name it gives. A new cluster is on timeline 1, whatever the old one came to.
pub fn upgrade(desk: &mut Desk, behind: u64) -> String {
    let old = desk.site.server.sql("SELECT system_identifier FROM pg_control_system()").unwrap();
    let command = desk.site.server.sql("SHOW archive_command").unwrap();
    desk.site.server.stop();
    let last: SegmentName = segments(desk, "local").last().unwrap().parse().unwrap();
    let size = SegmentSize::new(1 << 20).unwrap();
    let next = SegmentName::of_number(Timeline(1), last.number(size).unwrap() + behind, size).to_string();
    let settings = [("archive_mode", "on"), ("archive_command", &*command), ("wal_keep_size", "64MB")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let initdb = vec!["--wal-segsize=1".to_owned()];
    let mut server = ScratchServer::start(ScratchOptions { settings, initdb, ..ScratchOptions::default() }).unwrap();
    server.stop();
    let mut reset = std::process::Command::new(dbagent::postgres::find_tool(None, "pg_resetwal").unwrap());
    if let Some((user, group)) = desk.run_as {
        std::os::unix::process::CommandExt::gid(&mut reset, group);
        std::os::unix::process::CommandExt::uid(&mut reset, user);
    }
    let reset = reset.current_dir(server.directory()).args(["-l", &next, "-D"]).arg(server.data_directory()).output();
    assert!(reset.as_ref().unwrap().status.success(), "{reset:?}");
    server.resume().unwrap();
    server.sql("CREATE DATABASE shop").unwrap();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let host = |server: &ScratchServer| format!("host = '{}'", server.directory().display());
    let text = text.replace(&host(&desk.site.server), &host(&server));
    std::fs::write(&desk.config, format!("former_systems = ['{old}']\n{text}")).unwrap();
    desk.site.server = server;
    last.to_string()
}

/// Nothing is missing, and the window of each system stands for itself.
fn require_whole(desk: &Desk) {
    let listed = desk.json(0, &["wal", "list"]);
    let timeline = &listed["timelines"][0];
    assert_eq!(timeline["eras"].as_array().unwrap().len(), 2, "{listed}");
    assert_eq!(timeline["missing"], serde_json::json!([]), "{listed}");
    let synced = desk.run(&["wal", "sync", "--json"]);
    let synced = String::from_utf8(synced.stdout).unwrap();
    assert!(!synced.contains("wal-gap") && !synced.contains("wal-delayed"), "{synced}");
    let status = desk.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["recovery"]["windows"][0]["spans"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["recovery"]["findings"], serde_json::json!([]), "{status}");
}

/// The old cluster's base backup leads to the end of its log, and no further.
fn require_old(desk: &Desk, id: &str, last: &Acknowledged) {
    require_restorable(desk, id, last);
    let copy = Copy::restore(desk, "o", &["--backup", id, "--latest"]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), ((1..=last.id).collect(), Some("promoted")));
}

fn upgraded(behind: u64) {
    let mut desk = desk("{ count = 1 }");
    let old = generations(&desk, 1);
    let last = upgrade(&mut desk, behind);
    ledger(&desk);
    let new = generations(&desk, 3);
    let (all, made) = (segments(&desk, "local"), bases(&desk));
    require_whole(&desk);
    let to = place(&desk, "c").display().to_string();
    let planned = desk.json(0, &["restore", "--to", &to, "--target-time", &old[0].at, "--plan"]);
    assert_eq!(planned["plan"]["backup"], made[0].as_str(), "the moment chooses the system: {planned}");
    assert_eq!(planned["plan"]["last_segment"], last.as_str(), "{planned}");
    desk.json(14, &["restore", "--to", &to, "--backup", &made[0], "--target-time", &new[0].at, "--plan"]);
    require_old(&desk, &made[0], &old[0]);

    assert_eq!(desk.json(0, &["expire", "--yes"])["outcome"]["verdict"], "ok");
    let (left, kept) = (segments(&desk, "local"), bases(&desk));
    assert_eq!(kept, [&made[..1], &made[2..]].concat(), "the old cluster's last good one, and two of the new one's");
    let gone: Vec<&String> = all.iter().filter(|segment| !left.contains(segment)).collect();
    let from_the_new = gone.iter().filter(|segment| ***segment > last).count();
    assert!(from_the_new >= 2, "{gone:?} of {all:?}");
    require_whole(&desk);
    require_restorable(&desk, &kept[1], &new[1]);
    require_old(&desk, &kept[0], &old[0]);
}

#[test]
fn after_an_upgrade_whose_log_follows_at_once_each_system_keeps_and_restores_its_own() {
    upgraded(1);
}

#[test]
fn after_an_upgrade_whose_log_begins_later_the_hole_is_nobody_s_loss() {
    upgraded(4);
}

/// Lets the server go on on a timeline of its own, as after a recovery that finds no more log than is there.
fn promote(desk: &mut Desk) {
    desk.site.ask("ALTER SYSTEM SET restore_command = 'false'");
    desk.site.server.stop();
    let signal = desk.site.server.data_directory().join("recovery.signal");
    std::fs::write(&signal, "").unwrap();
    if let Some((user, group)) = desk.run_as {
        std::os::unix::fs::chown(&signal, Some(user), Some(group)).unwrap();
    }
    desk.site.server.resume().unwrap();
    let segment = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(segment.starts_with("00000002"), "{segment}");
}

fn findings(desk: &Desk, arguments: &[&str]) -> Vec<(String, String)> {
    let output = desk.run(&[arguments, &["--json"]].concat());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |finding: &serde_json::Value, name: &str| finding[name].as_str().unwrap_or_default().to_owned();
    let all = said["findings"].as_array().unwrap_or_else(|| panic!("{said}"));
    all.iter().map(|finding| (text(finding, "code"), text(finding, "message"))).collect()
}

/// Waits until the archiver has been refused `file`, and gives what the server logged of it.
fn refused(desk: &Desk, file: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(60);
    while desk.site.ask("SELECT coalesce(last_failed_wal, '') FROM pg_stat_archiver") != file {
        assert!(Instant::now() < deadline, "{file} was never refused");
        std::thread::sleep(Duration::from_millis(20));
    }
    desk.site.server.log().join("\n")
}

#[test]
fn f55_timelines_of_the_system_before_an_upgrade_are_told_refused_and_never_overwritten() {
    let mut desk = desk("{ count = 1 }");
    let mut rows = generations(&desk, 1);
    promote(&mut desk);
    backup(&desk);
    rows.push(commit(&desk, 2));
    switch(&desk);
    let old = bases(&desk);
    let codes = |desk: &Desk| -> Vec<String> {
        findings(desk, &["wal", "sync"])
            .into_iter()
            .map(|(code, _)| code)
            .filter(|code| code.starts_with("wal-"))
            .collect()
    };
    assert_eq!(codes(&desk), Vec::<String>::new(), "a failover by itself is nothing to tell");
    upgrade(&mut desk, 1);
    ledger(&desk);
    let new = generations(&desk, 2);
    // It is told before it hurts.
    let told = findings(&desk, &["wal", "sync"]);
    let told = told.iter().find(|(code, _)| code == "wal-former-timelines").unwrap_or_else(|| panic!("{told:?}"));
    assert!(told.1.starts_with("the timelines 2 are those of system"), "{told:?}");
    let made = bases(&desk);
    require_restorable(&desk, made.last().unwrap(), &new[1]);
    let copy = Copy::restore(&desk, "n", &["--latest"]);
    assert_eq!(copy.rows(), [1, 2]);
    drop(copy);

    let history = desk.site.root().join("local/wal");
    let stored = || {
        walk(&history)
            .into_iter()
            .filter(|path| path.to_string_lossy().contains(".history"))
            .map(|path| std::fs::read(path).unwrap())
    };
    let before: Vec<_> = stored().collect();
    promote(&mut desk);
    let log = refused(&desk, "00000002.history");
    assert!(log.contains("holds another file of this name") && log.contains("before pg_upgrade"), "{log}");
    commit(&desk, 3);
    assert_eq!(stored().collect::<Vec<_>>(), before, "nothing is overwritten");
    for (id, row) in old.iter().zip(&rows) {
        require_restorable(&desk, id, row);
    }

    // With a repository of its own the archiver goes on where it was, and nothing was lost meanwhile.
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let (was, own) = (desk.site.root().join("local"), desk.site.root().join("own"));
    std::fs::create_dir(&own).unwrap();
    if let Some((user, group)) = desk.run_as {
        std::os::unix::fs::chown(&own, Some(user), Some(group)).unwrap();
    }
    std::fs::write(
        &desk.config,
        text.replace("[repository.local]", "[repository.own]")
            .replace(&was.display().to_string(), &own.display().to_string()),
    )
    .unwrap();
    switch(&desk);
    backup(&desk);
    let last = commit(&desk, 4);
    switch(&desk);
    require_restorable(&desk, &bases_in(&desk, "own")[0], &last);
    assert_eq!(codes(&desk), Vec::<String>::new());
}
