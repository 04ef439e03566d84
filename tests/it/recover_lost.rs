//! A repository is lost when it is needed: its disk is gone, its store does not answer. What another one has is restored,
//! and what nobody can know never reads as the end of the log.

use std::time::{Duration, Instant};

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::recover::{Acknowledged, Copy, commit, ledger, place};
use crate::stage::agent::RunningAgent;
use crate::stage::archive::{self, switch};
use crate::stage::s3::{BUCKET, S3Server};
use crate::wal_archiver::Archive;

/// Nobody knows: PostgreSQL stops its recovery on it.
const CANNOT_KNOW: Option<i32> = Some(126);
const PROVEN_MISSING: Option<i32> = Some(1);

/// A desk that archives to a directory near and a store far away, with a base backup and commits after it.
fn desk(server: &S3Server) -> (Desk, Vec<Acknowledged>) {
    let desk = with_far_store(archive::desk(), server);
    ledger(&desk);
    let mut commits = vec![commit(&desk, 1)];
    backup(&desk);
    commits.extend((2..=4).map(|id| commit(&desk, id)));
    switch(&desk);
    (desk, commits)
}

/// The same with a second repository, to which the server archives as well.
pub fn with_far_store(mut desk: Desk, server: &S3Server) -> Desk {
    let (endpoint, environment) = (server.endpoint(), server.environment());
    desk.configure(&format!("[repository.s3]\nurl = 's3://{BUCKET}/r'\nendpoint = '{endpoint}'\npath_style = true\n"));
    let variables: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let command = desk.site.server.sql("SHOW archive_command").unwrap();
    let command = format!("env {} {command}", variables.join(" "));
    desk.site.server.sql(&format!("ALTER SYSTEM SET archive_command = $cmd${command}$cmd$")).unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    desk.environment = environment;
    desk
}

fn fetch(desk: &Desk, arguments: &[&str]) -> Option<i32> {
    let to = desk.site.root().join("state/fetched");
    let to = to.display().to_string();
    desk.run(&[&["wal", "fetch"], arguments, &[&to]].concat()).status.code()
}

/// From what is left everything is restored that a person names, and nothing is taken for the end.
fn require_restorable(desk: &Desk, commits: &[Acknowledged], left: &str) {
    let only = format!("--repository={left}");
    let believing = format!("--believe={left}");
    assert_eq!(fetch(desk, &["00000002.history"]), CANNOT_KNOW, "the lost one may have it");
    assert_eq!(fetch(desk, &[&only, "00000002.history"]), PROVEN_MISSING);
    assert_eq!(fetch(desk, &[&believing, "00000002.history"]), PROVEN_MISSING);
    assert_eq!(fetch(desk, &["--repository=nowhere", "00000002.history"]), CANNOT_KNOW);

    let copy = Copy::restore(desk, "c", &["--target-time", &commits[2].at, "--action", "promote"]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), (vec![1, 2, 3], Some("promoted")));
    drop(copy);
    let to = place(desk, "c").display().to_string();
    let refused = desk.json(15, &["restore", "--to", &to, "--latest"]);
    assert!(refused["error"]["hint"].as_str().unwrap().contains(&format!("--repository {left}")), "{refused}");
    assert!(!place(desk, "c").exists(), "refused before anything is written");
    let copy = Copy::restore(desk, "c", &["--latest", "--repository", left]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), (vec![1, 2, 3, 4], Some("promoted")));
}

#[test]
fn f68_with_the_near_disk_gone_the_far_store_restores_to_a_moment() {
    let server = S3Server::start();
    let (desk, commits) = desk(&server);
    let near = desk.site.root().join("local");
    std::fs::rename(&near, near.with_extension("gone")).unwrap();
    require_restorable(&desk, &commits, "s3");
    // A mount point without its disk is no repository either.
    let _empty = desk.site.directory("local");
    archive::give(&desk);
    let copy = Copy::restore(&desk, "e", &["--target-time", &commits[1].at, "--action", "promote"]);
    assert_eq!(copy.rows(), [1, 2]);
}

#[test]
fn f68_with_the_far_store_dead_the_near_disk_restores_to_a_moment() {
    let server = S3Server::start();
    let (desk, commits) = desk(&server);
    drop(server);
    require_restorable(&desk, &commits, "local");
}

#[test]
fn f68_a_running_agent_takes_the_word_of_the_repository_that_it_is_told_to_believe() {
    let archive = Archive::new();
    let segment = archive.segment();
    archive.wait_archived(segment);
    archive.configure("[repository.far]\nurl = 'file:///nonexistent/far'\n");
    let agent = RunningAgent::start(archive.command(&["run"]));
    let socket = archive.root().join("state/agent.sock");
    archive.wait("the agent listens", || socket.exists());
    let to = archive.root().join("state/fetched");
    let fetch = |words: &[&str]| {
        let to = to.display().to_string();
        archive.run(&[&["wal", "fetch"], words, &[&to]].concat()).status.code()
    };
    let missing = "0000000100000000000000FE";
    let segment = segment.to_string();
    for _ in 0..2 {
        assert_eq!(fetch(&[missing]), CANNOT_KNOW);
        assert_eq!(fetch(&["--believe=local", missing]), PROVEN_MISSING);
        assert_eq!(fetch(&["--repository=local", missing]), PROVEN_MISSING);
        assert_eq!(fetch(&["--believe=far", missing]), CANNOT_KNOW, "it is not there to be believed");
        assert_eq!(fetch(&["--believe=far", &segment]), Some(0), "whoever has it gives it");
        assert_eq!(fetch(&["--repository=far", &segment]), CANNOT_KNOW);
    }
    drop(agent);
}

#[test]
fn f57_damage_behind_the_target_does_not_keep_a_recovery_from_it() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    let wanted = commit(&desk, 1);
    commit(&desk, 2);
    switch(&desk);
    let behind = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    commit(&desk, 3);
    switch(&desk);
    let objects: Vec<_> = crate::recover::walk(&desk.site.root().join("local/wal"))
        .into_iter()
        .filter(|path| path.to_string_lossy().contains(&behind) && path.to_string_lossy().ends_with(".gpg"))
        .collect();
    assert_eq!(objects.len(), 1, "{behind}: {objects:?}");
    let mut bytes = std::fs::read(&objects[0]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&objects[0], bytes).unwrap();
    assert_eq!(fetch(&desk, &[&behind]), CANNOT_KNOW, "it is damaged");
    let copy = Copy::restore(&desk, "c", &["--target-time", &wanted.at]);
    assert_eq!((copy.rows(), copy.started["state"].as_str()), (vec![1], Some("paused")));
}

#[test]
fn what_a_server_left_in_the_original_is_taken_out_of_the_copy() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    switch(&desk);
    let to = place(&desk, "c");
    let text = to.display().to_string();
    desk.json(0, &["restore", "--to", &text, "--latest"]);
    // As base backups of older versions have them.
    let stale = [".s.PGSQL.5432", ".s.PGSQL.5432.lock", "postmaster.opts", "postmaster.pid"];
    stale.iter().for_each(|name| std::fs::write(to.join(name), "4194304\n").unwrap());
    archive::give(&desk);
    let again = desk.json(0, &["restore", "--to", &text, "--latest", "--delta"]);
    assert!(again["restored"]["kept"].as_u64().unwrap() > 500, "{again}");
    let left: Vec<_> = stale.iter().filter(|name| to.join(name).exists()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// The tablespace of a live server, with a table in it.
fn tablespace(desk: &Desk) -> std::path::PathBuf {
    let location = desk.site.directory("live");
    archive::give(desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE live LOCATION '{}'", location.display())).unwrap();
    desk.site.ask("CREATE TABLE far TABLESPACE live AS SELECT n FROM generate_series(1, 5000) n");
    location
}

fn files(folder: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files = crate::recover::walk(folder);
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect()
}

#[test]
fn a_copy_beside_the_live_server_does_not_replay_into_its_tablespaces() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    let before = commit(&desk, 1);
    commit(&desk, 2);
    switch(&desk);
    let location = tablespace(&desk);
    let after = commit(&desk, 3);
    switch(&desk);
    desk.site.ask("CHECKPOINT");
    let there = files(&location);
    assert!(!there.is_empty());
    let to = place(&desk, "c").display().to_string();
    let refused = desk.json(1, &["restore", "--to", &to, "--latest", "--start"]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&location.display().to_string()) && message.contains("in use"), "{refused}");
    assert_eq!(files(&location), there, "the live files are as they were");
    assert_eq!(desk.site.ask("SELECT count(*) FROM far"), "5000");
    std::fs::remove_dir_all(place(&desk, "c")).unwrap();

    let copy = Copy::restore(&desk, "c", &["--target-time", &before.at]);
    assert_eq!(copy.rows(), [1], "to a moment before it");
    drop(copy);
    // The cluster is gone and its directory emptied: the copy makes its own tablespace there, and may be started again.
    desk.site.ask("DROP TABLE far");
    desk.site.server.sql("DROP TABLESPACE live").unwrap();
    let copy = Copy::restore(&desk, "c", &["--target-lsn", &after.position]);
    assert_eq!(copy.ask("SELECT count(*) FROM far"), "5000");
    let directory = copy.directory.display().to_string();
    crate::recover::pg_ctl(&desk, &["stop", "-m", "immediate", "-s", "-D", &directory]);
    let socket = format!("-c unix_socket_directories='{directory}' -c listen_addresses='' -c port=5432");
    let log = copy.directory.join("again.log").display().to_string();
    let started = crate::recover::pg_ctl(&desk, &["start", "-w", "-s", "-D", &directory, "-l", &log, "-o", &socket]);
    assert!(started.status.success(), "{}", std::fs::read_to_string(&log).unwrap_or_default());
    let deadline = Instant::now() + Duration::from_secs(60);
    while copy.ask("SELECT pg_get_wal_replay_pause_state()") != "paused" {
        assert!(Instant::now() < deadline, "{}", std::fs::read_to_string(&log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(copy.ask("SELECT count(*) FROM far"), "5000");
}
