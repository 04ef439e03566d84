//! A cluster that pg_upgrade has replaced: another system identifier, the same repository, segment names that go on. Each
//! system's base backups lead to the end of its own log, and neither holds nor hides the other's.

use dbagent::model::wal::{SegmentName, SegmentSize};
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};

use crate::cli::Desk;
use crate::expire_wal::{bases, desk, generations, require_restorable, segments};
use crate::recover::{Acknowledged, Copy, ledger, place};

/// Puts a new cluster in the place of the old one, as pg_upgrade leaves it: of another system, its log begun so many
/// segments behind the old one's last, whose name it gives.
pub fn upgrade(desk: &mut Desk, behind: u64) -> String {
    let old = desk.site.server.sql("SELECT system_identifier FROM pg_control_system()").unwrap();
    let command = desk.site.server.sql("SHOW archive_command").unwrap();
    desk.site.server.stop();
    let last: SegmentName = segments(desk, "local").last().unwrap().parse().unwrap();
    let size = SegmentSize::new(1 << 20).unwrap();
    let next = SegmentName::of_number(last.timeline(), last.number(size).unwrap() + behind, size).to_string();
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
