//! Recoveries that end before their target: none of them is called a success, whoever starts the copy.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::recover::{Acknowledged, Copy, commit, ledger, pg_ctl, place, walk};
use crate::stage::archive::{self, switch};

/// What PostgreSQL says when it has left recovery.
const PROMOTED: &str = "archive recovery complete";
const PATIENCE: Duration = Duration::from_secs(60);

/// Three rows behind a base backup, each in a segment of its own; gives the name of the second one's, and the rows.
fn rows_in_segments(desk: &Desk) -> (String, Vec<Acknowledged>) {
    ledger(desk);
    backup(desk);
    switch(desk);
    let mut segments = Vec::new();
    let row = |id| {
        let row = commit(desk, id);
        segments.push(desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())"));
        switch(desk);
        row
    };
    let rows = (1..=3).map(row).collect();
    (segments.swap_remove(1), rows)
}

/// The stored object and record of `segment`.
fn stored(desk: &Desk, segment: &str) -> Vec<PathBuf> {
    let is_its = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with(segment);
    let files: Vec<PathBuf> = walk(&desk.site.root().join("local/wal")).into_iter().filter(is_its).collect();
    assert!(files.len() >= 2, "{segment} is stored");
    files
}

fn leases(desk: &Desk) -> usize {
    walk(&desk.site.root().join("local")).iter().filter(|path| path.to_string_lossy().contains("/leases/")).count()
}

/// Starts the copy as a person does, and waits until its log says `awaited`.
fn start_by_hand(desk: &Desk, awaited: &str) {
    let to = place(desk, "c").display().to_string();
    let log = place(desk, "c.log").display().to_string();
    // It may be up and read-only before it comes to what is awaited, or not come up at all.
    let socket = format!("-c unix_socket_directories='{to}' -c listen_addresses='' -c port=5432");
    pg_ctl(desk, &["start", "-w", "-s", "-D", &to, "-l", &log, "-o", &socket]);
    let deadline = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&log).unwrap().contains(awaited) {
        let said = std::fs::read_to_string(&log).unwrap();
        assert!(Instant::now() < deadline && !said.contains(PROMOTED), "{awaited:?} was not said:\n{said}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_segment_that_is_lost_after_the_copy_was_laid_down_never_reads_as_the_end_of_the_log() {
    let desk = archive::desk();
    let (lost, _) = rows_in_segments(&desk);
    let to = place(&desk, "c").display().to_string();
    desk.json(0, &["restore", "--to", &to, "--latest"]);
    assert_eq!(leases(&desk), 1, "what a copy is to be recovered from is not let go");
    let aside = desk.site.directory("aside");
    let files = stored(&desk, &lost);
    let beside = |path: &PathBuf| aside.join(path.file_name().unwrap());
    files.iter().for_each(|path| std::fs::rename(path, beside(path)).unwrap());
    start_by_hand(&desk, &format!("fetch {lost}: it was stored when this restore was planned"));
    pg_ctl(&desk, &["stop", "-m", "fast", "-w", "-s", "-D", &to]);
    files.iter().for_each(|path| std::fs::rename(beside(path), path).unwrap());
    start_by_hand(&desk, PROMOTED);
    let copy = Copy { desk: &desk, directory: place(&desk, "c"), started: serde_json::Value::Null };
    assert_eq!(copy.rows(), [1, 2, 3], "it goes on once the segment is back");
}

#[test]
fn a_log_that_breaks_off_in_its_middle_is_neither_a_moment_nor_the_latest() {
    let desk = archive::desk();
    let (broken, rows) = rows_in_segments(&desk);
    // What the archiver was given was damaged behind its header.
    let file = desk.site.server.data_directory().join("pg_wal").join(&broken);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[40..].fill(0);
    std::fs::write(&file, bytes).unwrap();
    stored(&desk, &broken).into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    desk.json(0, &["wal", "push", &file.display().to_string()]);
    let to = place(&desk, "c");
    let at = rows[2].at.as_str();
    for target in [&["--target-time", at][..], &["--latest"]] {
        let arguments = [&["restore", "--start", "--to", to.to_str().unwrap()], target].concat();
        let refused = desk.json(13, &arguments);
        let message = refused["error"]["message"].as_str().unwrap();
        assert!(message.contains("its recovery ended at") && message.contains("before the last segment"), "{refused}");
        assert!(!to.join("postmaster.pid").exists(), "{target:?}: nobody takes it for the copy that was wanted");
        std::fs::remove_dir_all(&to).unwrap();
    }
    assert_eq!(leases(&desk), 2, "what was not recovered is not let go");
    let arguments = ["restore", "--table", "ledger", "--mode", "replace", "--yes", "--target-time", at];
    desk.json(13, &arguments);
    assert_eq!(desk.site.ask("SELECT count(*) FROM ledger"), "3", "the live table is as it was");
    let copy = Copy::restore(&desk, "c", &["--target-lsn", &rows[0].position]);
    assert_eq!(copy.rows(), [1], "what lies before it is there");
    drop(copy);
    assert_eq!(leases(&desk), 2, "neither a copy that is removed nor one that came to its target needs anything more");
}

#[test]
fn a_moment_that_the_log_is_not_known_to_cover_is_reached_only_where_it_has_a_later_commit() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    commit(&desk, 1);
    switch(&desk);
    let told = desk.json(3, &["status"]);
    let until = told["recovery"]["windows"][0]["spans"][0]["until"].as_str().unwrap();
    let within_the_grain = until.parse::<DateTime<Utc>>().unwrap() + TimeDelta::milliseconds(5);
    let to = place(&desk, "c").display().to_string();
    let at = within_the_grain.to_rfc3339();
    let refused = desk.json(14, &["restore", "--to", &to, "--start", "--target-time", &at]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("whole only up to {until}")), "{refused}");
    std::fs::remove_dir_all(&to).unwrap();
    let copy = Copy::restore(&desk, "c", &["--target-time", until]);
    assert_eq!(copy.rows(), [1]);
}

#[test]
fn told_to_stop_while_it_recovers_no_server_stays_and_what_it_says_goes_on() {
    let desk = archive::desk();
    ledger(&desk);
    // The copy has it too: it waits at the first commit that it replays.
    desk.site.server.sql("ALTER SYSTEM SET recovery_min_apply_delay = '1h'").unwrap();
    backup(&desk);
    let position = commit(&desk, 1).position;
    switch(&desk);
    let to = place(&desk, "c");
    let arguments = ["restore", "--start", "--to", to.to_str().unwrap(), "--target-lsn", &position];
    let running = desk.command(&arguments).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let copy = Copy { desk: &desk, directory: to.clone(), started: serde_json::Value::Null };
    let deadline = Instant::now() + PATIENCE;
    while !to.join(".s.PGSQL.5432").exists() {
        assert!(Instant::now() < deadline, "the copy was never started");
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(rustix::process::Pid::from_child(&running), rustix::process::Signal::INT).unwrap();
    let ended = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("told to stop") && said.contains("Its server is stopped"), "{said}");
    assert!(said.contains(&format!("pg_ctl -D {} start", to.display())) && said.contains("--delta"), "{said}");
    assert!(!to.join("postmaster.pid").exists(), "no server stays");

    let again = desk.json(0, &["restore", "--to", to.to_str().unwrap(), "--target-lsn", &position, "--delta"]);
    assert!(again["restored"]["kept"].as_u64().unwrap() > 500, "{again}");
    let settings = to.join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "recovery_min_apply_delay = 0\n").unwrap();
    start_by_hand(&desk, "pausing at the end of recovery");
    assert_eq!(copy.rows(), [1]);
}

#[test]
fn where_the_copy_s_server_could_not_fetch_the_log_nothing_is_laid_down() {
    let desk = archive::desk();
    let (_, rows) = rows_in_segments(&desk);
    let to = place(&desk, "c");
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let named = "decryption_key = 'restore-key.asc'\n";
    assert!(text.contains(named));
    std::fs::write(&desk.config, text.replace(named, "")).unwrap();
    let key = desk.site.root().join("restore-key.asc");
    let restore = |more: &[&str]| {
        let arguments = ["restore", "--to", to.to_str().unwrap(), "--target-time", &rows[1].at, "--json"];
        let mut command = desk.command(&[&arguments[..], more].concat());
        command.env("DBAGENT_ENCRYPTION__DECRYPTION_KEY", &key).output().unwrap()
    };
    let refused = restore(&["--start"]);
    let said = String::from_utf8_lossy(&refused.stdout);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("fetch from the log as the copy's server will") && said.contains("DBAGENT_"), "{said}");
    assert!(!to.exists(), "nothing was laid down");
    // Without a server this process's own key is enough.
    let laid = restore(&[]);
    assert!(laid.status.success(), "{}", String::from_utf8_lossy(&laid.stdout));
    std::fs::remove_dir_all(&to).unwrap();
    std::fs::write(&desk.config, text).unwrap();
    let copy = Copy::restore(&desk, "c", &["--target-time", &rows[1].at]);
    assert_eq!(copy.rows(), [1, 2]);
}

#[test]
fn a_recovery_that_pauses_on_its_way_is_not_at_its_target() {
    let mut desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    desk.site.server.sql("ALTER SYSTEM SET max_connections = 150").unwrap();
    desk.site.server.stop();
    desk.site.server.resume().unwrap();
    commit(&desk, 1);
    let at = commit(&desk, 2).at;
    commit(&desk, 3);
    switch(&desk);
    let to = place(&desk, "c");
    let refused = desk.json(1, &["restore", "--start", "--to", to.to_str().unwrap(), "--target-time", &at]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("paused before its target") && message.contains("max_connections"), "{refused}");
    assert!(!to.join("postmaster.pid").exists(), "nobody takes it for the copy that was wanted");
    let settings = to.join("postgresql.auto.conf");
    let text = std::fs::read_to_string(&settings).unwrap();
    std::fs::write(&settings, text + "max_connections = 150\n").unwrap();
    start_by_hand(&desk, "pausing at the end of recovery");
    let copy = Copy { desk: &desk, directory: to, started: serde_json::Value::Null };
    assert_eq!(copy.rows(), [1, 2], "with the setting raised it goes on, as the hint says");
}
