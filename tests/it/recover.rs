//! Point-in-time restores of a real cluster: exactly what was committed up to the moment, on whichever timeline.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::stage::archive::{self, switch};

/// One commit that a client was told of.
pub struct Acknowledged {
    pub id: u32,
    /// The server's clock after the commit.
    pub at: String,
    pub position: String,
}

/// Writes a row, and notes when it was surely there.
pub fn commit(desk: &Desk, id: u32) -> Acknowledged {
    desk.site.ask(&format!("INSERT INTO ledger VALUES ({id}, 'row {id}')"));
    let row = desk.site.ask("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' || pg_current_wal_insert_lsn()");
    let (at, position) = row.split_once(' ').unwrap();
    Acknowledged { id, at: at.to_owned(), position: position.to_owned() }
}

pub fn ledger(desk: &Desk) {
    desk.site.ask("CREATE TABLE ledger (id int PRIMARY KEY, line text)");
}

/// Where copies go: short enough for a socket.
pub fn place(desk: &Desk, name: &str) -> PathBuf {
    desk.site.root().join(name)
}

/// A started copy, stopped when dropped.
pub struct Copy<'a> {
    pub desk: &'a Desk,
    pub directory: PathBuf,
    pub started: Value,
}

impl<'a> Copy<'a> {
    pub fn restore(desk: &'a Desk, name: &str, arguments: &[&str]) -> Self {
        let directory = place(desk, name);
        let to = directory.display().to_string();
        let result = desk.json(0, &[&["restore", "--to", &to, "--start"], arguments].concat());
        Self { desk, directory, started: result["started"].clone() }
    }

    pub fn ask(&self, query: &str) -> String {
        self.ask_in("shop", query)
    }

    pub fn ask_in(&self, database: &str, query: &str) -> String {
        let output = Command::new("psql")
            .args(["-XqAt", "-p", "5432", "-U", "postgres", "-d", database, "-c", query, "-h"])
            .arg(&self.directory)
            .output()
            .unwrap();
        assert!(output.status.success(), "{query}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn rows(&self) -> Vec<u32> {
        let rows = self.ask("SELECT id FROM ledger ORDER BY id");
        rows.lines().map(|line| line.parse().unwrap()).collect()
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        pg_ctl(self.desk, &["stop", "-m", "immediate", "-s", "-D", &self.directory.display().to_string()]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

pub fn pg_ctl(desk: &Desk, arguments: &[&str]) -> std::process::Output {
    use std::os::unix::process::CommandExt as _;
    let program = dbagent::postgres::find_tool(None, "pg_ctl").unwrap();
    let mut command = Command::new(program);
    if let Some((user, group)) = desk.run_as {
        command.gid(group).uid(user);
    }
    command.args(arguments).current_dir(desk.site.root()).output().unwrap()
}

fn up_to(commits: &[Acknowledged], last: usize) -> Vec<u32> {
    commits[..=last].iter().map(|commit| commit.id).collect()
}

#[test]
fn pitr_has_exactly_what_was_committed_up_to_the_moment_over_two_timelines() {
    let desk = archive::desk();
    ledger(&desk);
    let mut first = vec![commit(&desk, 1), commit(&desk, 2)];
    backup(&desk);
    first.extend((3..=8).map(|id| commit(&desk, id)));
    switch(&desk);
    first.push(commit(&desk, 9));
    switch(&desk);

    for last in [2, 5, 7] {
        let copy = Copy::restore(&desk, "c", &["--target-time", &first[last].at]);
        assert_eq!((copy.rows(), copy.started["state"].as_str()), (up_to(&first, last), Some("paused")), "time {last}");
        assert_eq!(copy.ask("SHOW archive_mode"), "off");
    }
    let copy = Copy::restore(&desk, "c", &["--target-lsn", &first[4].position]);
    assert_eq!(copy.rows(), up_to(&first, 4));
    drop(copy);
    let copy = Copy::restore(&desk, "c", &["--immediate", "--action", "promote"]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), (up_to(&first, 1), Some("promoted")));
    drop(copy);

    // The copy takes over at row 6: timeline 2 begins there, and goes on in the same archive.
    let copy = Copy::restore(&desk, "new", &["--target-time", &first[5].at, "--action", "promote", "--takeover"]);
    assert_eq!(copy.rows(), up_to(&first, 5));
    let ask_new = |query: &str| copy.ask(query);
    ask_new("INSERT INTO ledger VALUES (101, 'second life'), (102, 'second life')");
    let moment = ask_new("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    ask_new("INSERT INTO ledger VALUES (103, 'later')");
    let ended = ask_new("SELECT pg_walfile_name(pg_switch_wal())");
    let archived = || ask_new("SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while archived() < ended {
        assert!(std::time::Instant::now() < deadline, "{ended} was not archived by the new primary: {}", archived());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let second = Copy::restore(&desk, "c2", &["--target-time", &moment]);
    let mut expected = up_to(&first, 5);
    expected.extend([101, 102]);
    assert_eq!(second.rows(), expected, "timeline 2");
    drop(second);
    let old = Copy::restore(&desk, "c2", &["--target-time", &first[7].at, "--timeline", "1"]);
    assert_eq!(old.rows(), up_to(&first, 7), "timeline 1 is still there");
    drop(old);
    let latest = Copy::restore(&desk, "c2", &["--latest"]);
    expected.push(103);
    assert_eq!(latest.rows(), expected, "the newest timeline to its end");
}

#[test]
fn f66_a_moment_after_the_last_commit_is_reached_although_recovery_runs_out_of_log() {
    let desk = archive::desk();
    ledger(&desk);
    commit(&desk, 1);
    backup(&desk);
    commit(&desk, 2);
    let after = commit(&desk, 3).at;
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--target-time", &after]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), (vec![1, 2, 3], Some("paused")));
    let log = std::fs::read_to_string(copy.directory.join("dbagent-restore.log")).unwrap();
    assert!(log.contains("recovery ended before configured recovery target"), "it did run out:\n{log}");
}

#[test]
fn f66_targets_outside_the_window_are_refused_with_the_window() {
    let desk = archive::desk();
    ledger(&desk);
    let before = commit(&desk, 1).at;
    backup(&desk);
    let within = commit(&desk, 2).at;
    commit(&desk, 3);
    switch(&desk);
    let to = place(&desk, "c").display().to_string();
    let plan =
        |code: i32, arguments: &[&str]| desk.json(code, &[&["restore", "--to", &to, "--plan"], arguments].concat());
    let planned = plan(0, &["--target-time", &within]);
    assert!(planned["plan"]["segments"].as_u64().unwrap() >= 1, "{planned}");
    for time in [before.as_str(), "2038-01-01T00:00:00Z"] {
        let refused = plan(14, &["--target-time", time]);
        assert!(refused["error"]["message"].as_str().unwrap().contains("any moment from"), "{refused}");
    }
    let zoneless = plan(2, &["--target-time", "2026-03-01 14:30:00"]);
    assert!(zoneless["error"]["hint"].as_str().unwrap().contains("2026-03-01T14:30:00Z"), "{zoneless}");
    let local = within.trim_end_matches('Z');
    assert_eq!(plan(0, &["--target-time", local, "--timezone", "UTC"])["plan"]["target"], planned["plan"]["target"]);
    plan(14, &["--target-time", local, "--timezone", "Asia/Tokyo"]);
    let repeated = plan(2, &["--target-time", "2025-10-26 02:30", "--timezone", "Europe/Amsterdam"]);
    let hint = repeated["error"]["hint"].as_str().unwrap();
    assert!(hint.contains("+02:00") && hint.contains("+01:00"), "{repeated}");
    plan(2, &["--target-time", local, "--timezone", "Europe/Amsterdm"]);
    let configured = std::fs::read_to_string(&desk.config).unwrap();
    desk.configure("[restore]\ntimezone = 'UTC'\n");
    assert_eq!(plan(0, &["--target-time", local])["plan"]["target"], planned["plan"]["target"]);
    std::fs::write(&desk.config, configured).unwrap();
    plan(14, &["--target-lsn", "0/1"]);
    plan(14, &["--target-time", &within, "--timeline", "7"]);
    assert!(!Path::new(&to).exists(), "a plan writes nothing");
}

#[test]
fn f57_a_gap_before_the_target_is_refused_with_the_last_moment_before_it() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    let early = commit(&desk, 1).at;
    switch(&desk);
    let lost = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    commit(&desk, 2);
    switch(&desk);
    let late = commit(&desk, 3).at;
    switch(&desk);
    let mut removed = 0;
    for entry in walk(&desk.site.root().join("local/wal")) {
        if entry.file_name().unwrap().to_string_lossy().starts_with(&lost) {
            std::fs::remove_file(entry).unwrap();
            removed += 1;
        }
    }
    assert!(removed >= 2, "the segment {lost} was stored and is gone");
    let to = place(&desk, "c").display().to_string();
    let refused = desk.json(14, &["restore", "--to", &to, "--target-time", &late]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("(then the segment {lost} is missing)")), "{refused}");
    desk.json(14, &["restore", "--to", &to, "--latest"]);
    let copy = Copy::restore(&desk, "c", &["--target-time", &early]);
    assert_eq!(copy.rows(), [1]);
}

pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn f67_what_must_not_be_touched_is_refused() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    switch(&desk);
    let restore = |code: i32, to: &Path, more: &[&str]| {
        let to = to.display().to_string();
        desk.json(code, &[&["restore", "--to", &to, "--latest"], more].concat())["error"]["message"].to_string()
    };
    let full = desk.site.directory("full");
    std::fs::write(full.join("letters"), "mine").unwrap();
    archive::give(&desk);
    assert!(restore(15, &full, &[]).contains("not empty"));
    assert!(restore(15, &full, &["--delta"]).contains("no data directory"));
    assert!(restore(15, &desk.site.server.data_directory(), &["--delta"]).contains("a server runs on it"));
    std::fs::write(full.join("PG_VERSION"), "12\n").unwrap();
    assert!(restore(15, &full, &["--delta"]).contains("PostgreSQL 12"));
    assert_eq!(std::fs::read_to_string(full.join("letters")).unwrap(), "mine");
    let other = crate::stage::site::Site::new();
    let theirs = other.server.data_directory();
    std::fs::write(full.join("PG_VERSION"), "15\n").unwrap();
    std::fs::create_dir(full.join("global")).unwrap();
    std::fs::copy(theirs.join("global/pg_control"), full.join("global/pg_control")).unwrap();
    archive::give(&desk);
    assert!(restore(15, &full, &["--delta"]).contains("of the system"));
    assert!(full.join("letters").exists() && full.join("global/pg_control").exists());
}

#[test]
fn delta_brings_a_copy_up_to_date_and_if_empty_leaves_one_alone() {
    let desk = archive::desk();
    ledger(&desk);
    let first = commit(&desk, 1);
    backup(&desk);
    let second = commit(&desk, 2);
    commit(&desk, 3);
    switch(&desk);
    let to = place(&desk, "c");
    let text = to.display().to_string();
    desk.json(0, &["restore", "--to", &text, "--target-time", &second.at]);
    std::fs::write(to.join("base/stray"), "not in the backup").unwrap();
    let damaged = to.join(desk.site.ask("SELECT pg_relation_filepath('orders')"));
    std::fs::write(&damaged, "short").unwrap();
    let left = desk.json(0, &["restore", "--to", &text, "--latest", "--if-empty"]);
    assert!(left["restored"].is_null(), "{left}");
    let again = desk.json(0, &["restore", "--to", &text, "--target-time", &second.at, "--delta", "--start"]);
    assert!(again["restored"]["kept"].as_u64().unwrap() > 500, "{again}");
    assert!(again["restored"]["files"].as_u64().unwrap() < 20, "{again}");
    assert!(!to.join("base/stray").exists());
    let copy = Copy { desk: &desk, directory: to, started: again["started"].clone() };
    assert_eq!(copy.rows(), [1, 2]);
    assert_eq!(copy.ask("SELECT count(*) FROM orders"), "3000");
    assert!(first.at < second.at);
}

#[test]
fn tablespaces_go_where_they_are_mapped() {
    let desk = archive::desk();
    ledger(&desk);
    let (old, new) = (desk.site.directory("ts_old"), desk.site.root().join("ts_new"));
    archive::give(&desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", old.display())).unwrap();
    desk.site.ask("CREATE TABLE far TABLESPACE elsewhere AS SELECT n FROM generate_series(1, 5000) n");
    backup(&desk);
    switch(&desk);
    let to = place(&desk, "c").display().to_string();
    let refused = desk.json(15, &["restore", "--to", &to, "--latest"]);
    assert!(refused["error"]["hint"].as_str().unwrap().contains("--tablespace-map"), "{refused}");
    let map = format!("{}={}", old.display(), new.display());
    let copy = Copy::restore(&desk, "c", &["--latest", "--tablespace-map", &map]);
    assert_eq!(copy.ask("SELECT count(*) FROM far"), "5000");
    let location = copy.ask("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'elsewhere'");
    assert_eq!(location, new.display().to_string());
    pg_ctl(&desk, &["stop", "-s", "-D", &to]);
    let outside = desk.site.directory("outside");
    std::fs::write(outside.join("letters"), "mine").unwrap();
    std::os::unix::fs::symlink(&outside, Path::new(&to).join("letters")).unwrap();
    archive::give(&desk);
    let refused = desk.json(15, &["restore", "--to", &to, "--latest", "--delta"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("not empty"), "the live one's place: {refused}");
    assert_eq!(desk.site.ask("SELECT count(*) FROM far"), "5000");
    desk.json(0, &["restore", "--to", &to, "--latest", "--delta", "--tablespace-map", &map]);
    assert!(outside.join("letters").exists(), "what a link leads to is left alone");
}

#[cfg(feature = "failpoints")]
#[test]
fn f64_a_copy_whose_label_was_taken_away_or_edited_is_refused_and_does_not_start() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    switch(&desk);
    let to = place(&desk, "c");
    let text = to.display().to_string();
    let killed = desk
        .command(&["restore", "--to", &text, "--latest"])
        .env("DBAGENT_FAILPOINT", "recover.before_settings=kill")
        .output();
    assert!(!killed.unwrap().status.success());
    let label = std::fs::read_to_string(to.join("backup_label")).unwrap();
    for edited in [None, Some(label.replace("START WAL LOCATION: 0/", "START WAL LOCATION: 1/"))] {
        match &edited {
            None => std::fs::remove_file(to.join("backup_label")).unwrap(),
            Some(edited) => std::fs::write(to.join("backup_label"), edited).unwrap(),
        }
        let refused = desk.json(13, &["restore", "--to", &text, "--latest"]);
        assert!(refused["error"]["message"].as_str().unwrap().contains("backup_label"), "{refused}");
        assert!(!pg_ctl(&desk, &["start", "-w", "-t", "5", "-D", &text]).status.success());
    }
    std::fs::write(to.join("backup_label"), label).unwrap();
    desk.json(0, &["restore", "--to", &text, "--latest"]);
    assert!(to.join("recovery.signal").exists() && !to.join("RESTORE_INCOMPLETE").exists());
}

#[cfg(feature = "failpoints")]
#[test]
fn f04_killed_at_every_point_of_a_restore_the_directory_refuses_to_start_and_the_next_run_goes_on() {
    use std::os::unix::process::ExitStatusExt as _;

    use dbagent::host::FailPoint;

    let desk = archive::desk();
    ledger(&desk);
    let wanted = commit(&desk, 1);
    backup(&desk);
    let at = commit(&desk, 2).at;
    commit(&desk, 3);
    switch(&desk);
    let log = desk.site.root().join("fired");
    let mut fired = 0;
    for point in FailPoint::ALL.iter().map(|point| point.name()).filter(|name| name.starts_with("recover.")) {
        let to = place(&desk, "c");
        let text = to.display().to_string();
        let killed = desk
            .command(&["restore", "--to", &text, "--target-time", &at])
            .env("DBAGENT_FAILPOINT", format!("{point}=kill"))
            .env("DBAGENT_FAILPOINT_LOG", &log)
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        fired += 1;
        let mark = std::fs::read_to_string(to.join("RESTORE_INCOMPLETE")).unwrap();
        assert!(mark.contains("has not ended"), "{mark}");
        if point != "recover.before_unmark" {
            let started = pg_ctl(&desk, &["start", "-w", "-t", "5", "-D", &text]);
            assert!(!started.status.success(), "{point}: PostgreSQL started a half-made copy");
        }
        let copy = Copy::restore(&desk, "c", &["--target-time", &at]);
        assert_eq!(copy.rows(), [wanted.id, 2], "{point}");
        assert!(!to.join("RESTORE_INCOMPLETE").exists());
    }
    assert!(fired >= 5);
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), fired);
}
