//! Incremental base backups of a real cluster: what is in them, when there can be none, and restoring their chains.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dbagent::catalog::Artifact;
use dbagent::model::base::BaseKind;
use dbagent::model::manifest::{Manifest, ObjectRole};
use serde_json::Value;

use crate::base_backup::{backup, file_list, manifest};
use crate::cli::Desk;
use crate::recover::Copy;
use crate::stage::archive::{self, switch};
use crate::stage::gpg::Gpg;

const JOB: &str = "[job.base-incremental]\nverb = 'base-backup'\nkind = 'incremental'\nschedule = '0 2 * * 0-5'\n";

/// A desk that archives, with a job for incremental base backups.
pub fn desk() -> Desk {
    desk_with(&[])
}

pub fn desk_with(settings: &[(&str, &str)]) -> Desk {
    let desk = archive::desk_with(settings);
    let path = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + JOB).unwrap();
    desk
}

/// Makes one, and gives what the run said.
pub fn incremental(desk: &Desk) -> Value {
    let run = desk.json(0, &["job", "run", "base-incremental"]);
    let outcome = run["run"]["end"]["result"]["done"].clone();
    assert_eq!(outcome["verdict"], "ok", "{run}");
    outcome
}

/// Why it became a full one.
fn reason(desk: &Desk) -> String {
    let outcome = incremental(desk);
    let full = manifest(desk);
    assert_eq!((full.base.unwrap().kind, full.parent), (BaseKind::Full, None), "{outcome}");
    let findings = outcome["findings"].as_array().unwrap();
    let finding = findings.iter().find(|finding| finding["code"] == "full-instead-of-incremental");
    finding.unwrap_or_else(|| panic!("{outcome}"))["message"].as_str().unwrap().to_owned()
}

fn artifacts(desk: &Desk) -> Vec<Artifact> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(desk.site.artifacts("local"))
}

fn rows(desk: &Desk) -> String {
    desk.site.ask(ROWS)
}

const ROWS: &str = "SELECT count(*) || ' ' || md5(string_agg(t::text, ',' ORDER BY n)) FROM t";

/// A table large enough that a few of its pages are little.
fn table(desk: &Desk) {
    desk.site.ask("CREATE TABLE t (n int PRIMARY KEY, line text)");
    desk.site.ask("INSERT INTO t SELECT n, repeat(md5(n::text), 8) FROM generate_series(1, 20000) n");
    desk.site.ask("VACUUM t");
}

fn change(desk: &Desk, seed: i32) {
    desk.site.ask(&format!("UPDATE t SET line = line || 'x' WHERE n % 2000 = {seed}"));
}

#[test]
fn it_holds_the_changed_pages_and_a_chain_of_them_restores_to_the_same_rows() {
    let desk = desk();
    table(&desk);
    let full = backup(&desk);
    for seed in 1..=3 {
        change(&desk, seed);
        let outcome = incremental(&desk);
        let (whole, stored) = (&full["repositories"][0]["stored_bytes"], &outcome["repositories"][0]["stored_bytes"]);
        assert!(stored.as_u64().unwrap() * 4 < whole.as_u64().unwrap(), "{stored} of {whole}");
    }
    let made = manifest(&desk);
    let base = made.base.clone().unwrap();
    assert_eq!(base.kind, BaseKind::Incremental);
    assert!(base.changed_since.unwrap() < base.start && made.parent.is_some());
    let lines = file_list(&desk, &made);
    assert_eq!(lines.iter().filter_map(|line| line.size).sum::<u64>(), base.bytes, "sizes of whole files");
    let path = desk.site.ask("SELECT pg_relation_filepath('t')");
    let line = |path: &str| lines.iter().find(|line| line.path == path).unwrap_or_else(|| panic!("{path}"));
    let pages = line(&path).pages.unwrap();
    assert!((10..60).contains(&pages), "{pages} of {:?}", line(&path).size);
    assert_eq!(line(&desk.site.ask("SELECT pg_relation_filepath('customers')")).pages, Some(0));
    for whole in
        [&format!("{path}_vm"), &format!("{path}_fsm"), "pg_xact/0000", "global/pg_control", "base/5/pg_filenode.map"]
    {
        assert_eq!(line(whole).pages, None, "{whole}");
    }
    assert_eq!(desk.json(0, &["backup", "verify", "--deep"])["verified"].as_array().unwrap().len(), 4);
    switch(&desk);
    let to = desk.site.root().join("c").display().to_string();
    let plan = desk.json(0, &["restore", "--to", &to, "--latest", "--plan"]);
    assert_eq!(plan["plan"]["chain"].as_array().unwrap().len(), 4, "{plan}");
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(ROWS), rows(&desk));
}

#[test]
fn without_proof_of_what_changed_it_is_a_full_one_and_says_why() {
    let desk = desk();
    table(&desk);
    assert!(reason(&desk).contains("no whole, verified base backup"));
    change(&desk, 1);
    incremental(&desk);
    assert_eq!(manifest(&desk).base.unwrap().kind, BaseKind::Incremental, "the full one is its parent");

    // A summary is lost, and pg_wal does not have the segment any more.
    let segment = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    change(&desk, 2);
    switch(&desk);
    let summaries = find(&desk.site.root().join("state/blocks"), &segment);
    assert_eq!(summaries.len(), 1, "a push makes it: {segment}");
    std::fs::remove_file(&summaries[0]).unwrap();
    let in_wal = desk.site.server.data_directory().join("pg_wal").join(&segment);
    let aside = desk.site.root().join("aside");
    std::fs::rename(&in_wal, &aside).unwrap();
    let said = reason(&desk);
    assert!(said.contains(&segment) && said.contains("no block summary"), "{said}");

    // The same, and pg_wal has it: nothing is lost.
    switch(&desk);
    let segment = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    change(&desk, 3);
    switch(&desk);
    std::fs::remove_file(&find(&desk.site.root().join("state/blocks"), &segment)[0]).unwrap();
    incremental(&desk);
    assert_eq!(manifest(&desk).base.unwrap().kind, BaseKind::Incremental);

    // pg_rewind was here.
    let position = desk.site.ask("SELECT pg_current_wal_lsn()");
    let label =
        format!("START WAL LOCATION: {position} (file {segment})\nBACKUP METHOD: pg_rewind\nSTART TIMELINE: 1\n");
    std::fs::write(desk.site.server.data_directory().join("backup_label.old"), label).unwrap();
    archive::give_below(&desk.site.server.data_directory(), desk.run_as.unwrap_or((0, 0)));
    let said = reason(&desk);
    assert!(said.contains("pg_rewind"), "{said}");
}

#[test]
fn f60_it_goes_on_after_a_promotion_and_not_after_a_recovery_to_before_its_parent() {
    let desk = desk();
    table(&desk);
    backup(&desk);
    change(&desk, 1);
    switch(&desk);
    let before = desk.site.ask("SELECT pg_current_wal_insert_lsn()");
    change(&desk, 2);
    incremental(&desk);
    switch(&desk);
    // A copy that takes over at a position before the incremental one: its timeline cannot build upon that.
    let copy = Copy::restore(&desk, "new", &["--target-lsn", &before, "--action", "promote", "--takeover"]);
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let socket = desk.site.server.directory().display().to_string();
    assert!(text.contains(&socket), "{text}");
    let port = format!("port = {}", desk.site.server.port());
    let moved = text.replace(&socket, &copy.directory.display().to_string()).replace(&port, "port = 5432");
    std::fs::write(&desk.config, moved).unwrap();
    let run = desk.json(0, &["job", "run", "base-incremental"]);
    let said = run.to_string();
    assert!(said.contains("full-instead-of-incremental") && said.contains("timeline 2 left timeline 1"), "{said}");
    // From that one on the new timeline has a chain of its own.
    copy.ask("UPDATE t SET line = 'new' WHERE n = 5");
    let run = desk.json(0, &["job", "run", "base-incremental"]);
    assert!(!run.to_string().contains("full-instead-of-incremental"), "{run}");
    assert_eq!(manifest(&desk).base.unwrap().timeline.0, 2);
}

#[test]
fn a_broken_chain_is_seen_before_anything_is_written_and_a_parent_is_not_deleted() {
    let desk = desk();
    table(&desk);
    backup(&desk);
    let parent = artifacts(&desk)[0].clone();
    change(&desk, 1);
    incremental(&desk);
    switch(&desk);
    let refused = desk.json(15, &["backup", "delete", &parent.manifest.id.to_string(), "--yes"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("build"), "{refused}");
    std::fs::remove_file(desk.site.root().join("local").join(parent.name.manifest().unwrap().as_str())).unwrap();
    let to = desk.site.root().join("c");
    let text = to.display().to_string();
    for arguments in [&["--latest"][..], &["--latest", "--backup", &manifest(&desk).id.to_string()]] {
        let output = desk.run(&[&["restore", "--to", &text], arguments].concat());
        assert!(!output.status.success(), "{arguments:?}");
        assert!(!to.exists(), "nothing is written");
    }
    let said = reason(&desk);
    assert!(said.contains("no whole, verified base backup"), "{said}");
}

#[test]
fn delta_keeps_what_a_chain_did_not_change() {
    let desk = desk();
    table(&desk);
    backup(&desk);
    change(&desk, 1);
    incremental(&desk);
    switch(&desk);
    let to = desk.site.root().join("c").display().to_string();
    let first = desk.json(0, &["restore", "--to", &to, "--latest"]);
    let damaged = desk.site.root().join("c").join(desk.site.ask("SELECT pg_relation_filepath('customers')"));
    std::fs::write(&damaged, "short").unwrap();
    std::fs::write(desk.site.root().join("c/base/stray"), "not in the backup").unwrap();
    let again = desk.json(0, &["restore", "--to", &to, "--latest", "--delta"]);
    let (all, written) = (first["restored"]["files"].as_u64().unwrap(), again["restored"]["files"].as_u64().unwrap());
    assert!(again["restored"]["kept"].as_u64().unwrap() > all / 3 && written < all * 2 / 3, "{first} {again}");
    assert!(!desk.site.root().join("c/base/stray").exists());
    let copy = Copy::restore(&desk, "c", &["--latest", "--delta", "--action", "promote"]);
    assert_eq!(copy.ask(ROWS), rows(&desk));
    assert_eq!(copy.ask("SELECT count(*) FROM customers"), desk.site.ask("SELECT count(*) FROM customers"));
}

fn find(folder: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(find(&path, name)),
            false if path.file_name().unwrap().to_string_lossy().starts_with(name) => found.push(path),
            false => {}
        }
    }
    found
}

/// The run-book's way: gpg, zstd, tar and its short script, nothing of ours.
#[test]
fn a_chain_is_put_together_with_stock_tools_and_the_script_of_the_run_book() {
    let desk = desk();
    table(&desk);
    backup(&desk);
    for seed in 1..=2 {
        change(&desk, seed);
        desk.site.ask(&format!("CREATE TABLE made_{seed} AS SELECT n FROM generate_series(1, 500) n"));
        incremental(&desk);
    }
    desk.site.ask("DROP TABLE made_1");
    incremental(&desk);
    switch(&desk);
    let gpg = Gpg::new();
    gpg.import(&desk.site.pair.secret);
    let by_hand = desk.site.directory("by-hand");
    let script = script_of_the_run_book();
    let program = desk.site.root().join("merge.py");
    std::fs::write(&program, script).unwrap();
    let chain: Vec<Manifest> = artifacts(&desk).into_iter().map(|artifact| artifact.manifest).collect();
    assert_eq!(chain.len(), 4);
    for manifest in &chain {
        let objects = |role| manifest.objects.iter().filter(move |object| object.role == role);
        let stored = |key: &str| desk.site.root().join("local").join(key).display().to_string();
        let decrypt = format!("gpg --homedir {} --batch --quiet --trust-model always -d", gpg.home().display());
        let mut lines = vec!["set -o pipefail; set -e".to_owned(), format!("cd {}", by_hand.display())];
        lines.extend(
            objects(ObjectRole::Part).map(|part| format!("{decrypt} {} | zstd -dq | tar x", stored(part.key.as_str()))),
        );
        let list = objects(ObjectRole::Files).next().unwrap();
        lines.push(format!("{decrypt} {} | zstd -dq | python3 {}", stored(list.key.as_str()), program.display()));
        let output = Command::new("bash").args(["-c", &lines.join("\n")]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(!by_hand.join("dbagent.pages").exists());
    // The same files with the same bytes as ours, but for those that only a restore writes.
    let ours = desk.site.root().join("ours");
    desk.json(0, &["restore", "--to", &ours.display().to_string(), "--latest"]);
    let mut compared = 0;
    for line in file_list(&desk, chain.last().unwrap()).iter().filter(|line| line.size.is_some()) {
        if ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "tablespace_map"].contains(&line.path.as_str()) {
            continue;
        }
        let read =
            |root: &Path| std::fs::read(root.join(&line.path)).unwrap_or_else(|error| panic!("{}: {error}", line.path));
        assert!(read(&by_hand) == read(&ours), "{}", line.path);
        compared += 1;
    }
    assert!(compared > 900, "{compared}");
    for gone in find(&by_hand.join("base"), "") {
        assert!(ours.join(gone.strip_prefix(&by_hand).unwrap()).exists(), "{}", gone.display());
    }
}

fn script_of_the_run_book() -> String {
    let book = include_str!("../../deploy/runbooks/pitr.md");
    let (_, rest) = book.split_once("```python\n").unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

#[cfg(feature = "failpoints")]
#[test]
fn f01_killed_while_it_is_made_or_restored_nothing_half_made_counts() {
    use std::os::unix::process::ExitStatusExt as _;

    let desk = desk();
    table(&desk);
    backup(&desk);
    change(&desk, 1);
    let log = desk.site.root().join("fired");
    let killed = |point: &str, arrival: u32, arguments: &[&str]| {
        let mut command = desk.command(arguments);
        command.env("DBAGENT_FAILPOINT", format!("{point}=kill:{arrival}")).env("DBAGENT_FAILPOINT_LOG", &log);
        let output = command.output().unwrap();
        assert_eq!(output.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    };
    for point in [
        "base.started",
        "part.mid_stream",
        "base.part_committed",
        "base.stopped",
        "base.before_manifest",
        "catalog.signature_put",
    ] {
        killed(point, 1, &["job", "run", "base-incremental"]);
        assert_eq!(artifacts(&desk).len(), 1, "{point}");
    }
    killed("catalog.manifest_put", 1, &["job", "run", "base-incremental"]);
    archive::give(&desk);
    change(&desk, 2);
    incremental(&desk);
    let kinds: Vec<_> = artifacts(&desk).into_iter().map(|each| each.manifest.base.unwrap().kind).collect();
    assert_eq!(kinds, [BaseKind::Full, BaseKind::Incremental, BaseKind::Incremental]);
    switch(&desk);
    let to = desk.site.root().join("c");
    let arguments = ["restore", "--to", &to.display().to_string(), "--latest"];
    for (point, arrival) in [
        ("recover.mid_file", 20),
        ("recover.part_done", 2),
        ("recover.part_done", 3),
        ("recover.mid_file", 3),
        ("recover.before_settings", 1),
    ] {
        killed(point, arrival, &arguments);
        assert!(to.join("RESTORE_INCOMPLETE").exists() && !to.join("global/pg_control").exists(), "{point}");
    }
    let fired = std::fs::read_to_string(&log).unwrap();
    assert_eq!(fired.lines().count(), 12, "{fired}");
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(ROWS), rows(&desk));
}
