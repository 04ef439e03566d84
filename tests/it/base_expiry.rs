//! An expiry beside a base backup that is being made: what it must leave alone, and from when on not.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::base_backup::backup;
use crate::base_incremental;
use crate::cli::Desk;
use crate::recover::{Copy, walk};
use crate::stage::agent::{MovableClock, RunningAgent};
use crate::stage::archive::switch;

/// A desk with a table of some parts, at which nothing is too young to go.
fn desk() -> Desk {
    let desk = base_incremental::desk();
    desk.site.ask("CREATE TABLE wide AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 15000) n");
    desk.configure("[agent]\nexpire_grace = '1 ms'\n");
    desk
}

/// The parts that lie in the repository.
fn parts(desk: &Desk) -> Vec<PathBuf> {
    let mut parts = walk_if_there(&desk.site.root().join("local/base"));
    parts.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("part-"));
    parts.sort();
    parts
}

pub fn leases(desk: &Desk) -> Vec<PathBuf> {
    walk_if_there(&desk.site.root().join("local/leases"))
}

/// Ends the leases in the directory, as six hours do: whoever took them is dead.
pub fn end_leases(desk: &Desk) {
    leases(desk).iter().for_each(|lease| std::fs::remove_file(lease).unwrap());
}

fn walk_if_there(folder: &Path) -> Vec<PathBuf> {
    if folder.exists() { walk(folder) } else { Vec::new() }
}

/// Expires from another host. Gives the outcome.
pub fn expire(desk: &Desk, clock: Option<&MovableClock>) -> Value {
    let mut command = elsewhere(desk, &["expire", "--yes", "--json"]);
    clock.iter().for_each(|clock| clock.show(&mut command));
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str::<Value>(&text).unwrap()["outcome"].clone()
}

/// A command of another host: it shares the repository, and no state.
pub fn elsewhere(desk: &Desk, arguments: &[&str]) -> Command {
    let mut command = desk.command(arguments);
    command.env("DBAGENT_STATE_DIR", desk.site.root().join("elsewhere"));
    command
}

/// Runs `job` up to where all its parts are stored and it waits for a log that does not come.
fn waiting(desk: &Desk, job: &str) -> (RunningAgent, String) {
    let command = desk.site.ask("SHOW archive_command");
    archive_by(desk, "false");
    let mut run = RunningAgent::start(desk.command(&["job", "run", job]));
    run.says("waiting for the log of the backup");
    (run, command)
}

pub fn archive_by(desk: &Desk, command: &str) {
    desk.site.ask(&format!("ALTER SYSTEM SET archive_command = $cmd${command}$cmd$"));
    desk.site.ask("SELECT pg_reload_conf()");
}

pub fn ends_well(mut run: RunningAgent) {
    let status = run.wait();
    assert!(status.success(), "{status}: {}", run.said());
}

#[test]
fn an_expiry_of_another_host_takes_nothing_of_a_base_backup_that_runs() {
    let desk = desk();
    let (run, command) = waiting(&desk, "base");
    let (stored, held) = (parts(&desk), leases(&desk));
    assert!(stored.len() > 2 && held.len() == 1, "{stored:?} {held:?}");
    for _ in 0..2 {
        assert_eq!(expire(&desk, None)["verdict"], "ok");
        assert_eq!((parts(&desk), leases(&desk)), (stored.clone(), held.clone()));
    }
    archive_by(&desk, &command);
    ends_well(run);
    assert_eq!((parts(&desk), leases(&desk)), (stored, Vec::new()), "the lease is given back");
    let verified = desk.json(0, &["backup", "verify", "--deep", "latest"]);
    assert_eq!(verified["verified"][0]["good"], true, "{verified}");
}

#[test]
fn a_base_backup_whose_parts_were_taken_is_never_committed() {
    let desk = desk();
    let (mut run, command) = waiting(&desk, "base");
    // It is the lease that held: without it the same expiry takes them.
    end_leases(&desk);
    expire(&desk, None);
    assert_eq!(parts(&desk), Vec::<PathBuf>::new());
    archive_by(&desk, &command);
    run.says("is not there any more");
    assert!(!run.wait().success());
    assert_eq!(desk.json(0, &["backup", "list"])["backups"], Value::Array(Vec::new()));
}

#[test]
fn an_expiry_does_not_take_what_a_running_base_backup_builds_upon() {
    let desk = desk();
    (0..2).for_each(|_| drop(backup(&desk)));
    let (run, command) = waiting(&desk, "base-incremental");
    assert_eq!(leases(&desk).len(), 2, "its own name and its parent");
    let refused = elsewhere(&desk, &["backup", "delete", "latest", "--yes"]).output().unwrap();
    assert_ne!(refused.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a running backup builds upon it"), "{refused:?}");
    archive_by(&desk, &command);
    ends_well(run);
    assert_eq!(leases(&desk), Vec::<PathBuf>::new());
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 3);
}

#[cfg(feature = "failpoints")]
#[test]
fn what_a_killed_base_backup_stored_is_kept_while_its_lease_holds_and_goes_after_it() {
    use crate::base_resume::{folders, kill, resumed};

    let desk = desk();
    let clock = MovableClock::new(desk.site.root());
    kill(&desk, "base", "base.stopped=kill");
    let (stored, before) = (parts(&desk), folders(&desk));
    clock.set(5 * 3600 + 1800);
    expire(&desk, Some(&clock));
    assert_eq!(parts(&desk), stored, "half an hour before its end the lease holds");
    // The grace time is long over: it is the lease that lets the next run rely on them.
    let outcome = backup(&desk);
    assert!(resumed(&outcome).expect("it was gone on with").0 >= 1, "{outcome}");
    assert_eq!((folders(&desk), leases(&desk)), (before, Vec::new()), "the dead run's lease is gone too");
    let sums = desk.site.ask("SELECT count(*) || md5(string_agg(t, '' ORDER BY n)) FROM wide");
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask("SELECT count(*) || md5(string_agg(t, '' ORDER BY n)) FROM wide"), sums);
    drop(copy);
    let kept = parts(&desk);

    clock.set(0);
    kill(&desk, "base", "base.stopped=kill");
    assert!(parts(&desk).len() > kept.len() && leases(&desk).len() == 1);
    clock.set(6 * 3600 + 60);
    expire(&desk, Some(&clock));
    assert_eq!((parts(&desk), leases(&desk)), (kept, Vec::new()), "with the lease they go");
    assert_eq!(resumed(&backup(&desk)), None, "and the next one is a new one");
}
