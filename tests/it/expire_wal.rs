//! Expiry of base backups and WAL in real repositories: what goes, what must not, and what a kill leaves behind.

use serde_json::Value;

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::recover::{Acknowledged, Copy, commit, ledger, walk};
use crate::stage::archive::{self, rewrite_plan, switch};

/// A desk whose base backups are kept as `keep` says, and nothing is too young to go.
pub fn desk(keep: &str) -> Desk {
    let desk = archive::desk();
    rewrite_plan(&desk, |plan| format!("{plan}keep = {keep}\n"));
    desk.configure("[agent]\nexpire_grace = '1 ms'\n");
    ledger(&desk);
    desk
}

/// A base backup, then a row, so often; each row is archived.
pub fn generations(desk: &Desk, count: u32) -> Vec<Acknowledged> {
    let generation = |id| {
        backup(desk);
        let row = commit(desk, id);
        switch(desk);
        row
    };
    (1..=count).map(generation).collect()
}

pub fn bases(desk: &Desk) -> Vec<String> {
    bases_in(desk, "local")
}

/// The base backups that are listed, oldest first, whatever else is found there.
pub fn bases_in(desk: &Desk, repository: &str) -> Vec<String> {
    let listed = desk.run(&["backup", "list", "--json"]);
    assert!(matches!(listed.status.code(), Some(0 | 3)), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let backups = listed["backups"].as_array().unwrap().iter();
    let mut bases: Vec<(String, String)> = backups
        .filter(|each| each["verb"] == "base-backup" && each["repository"] == repository)
        .map(|each| (each["finished"].as_str().unwrap().to_owned(), each["id"].as_str().unwrap().to_owned()))
        .collect();
    bases.sort();
    bases.into_iter().map(|(_, id)| id).collect()
}

/// Segments stored in the repository `name`, in order.
pub fn segments(desk: &Desk, name: &str) -> Vec<String> {
    let files = walk(&desk.site.root().join(name).join("wal"));
    let names = files.iter().map(|path| path.file_name().unwrap().to_string_lossy().into_owned());
    let mut records: Vec<String> = names.filter_map(|name| Some(name.strip_suffix(".json")?.to_owned())).collect();
    records.retain(|name| name.len() == 24);
    records.sort();
    records
}

fn wal_plan(desk: &Desk, repository: &str) -> Vec<Value> {
    let plan = desk.json(0, &["expire", "--plan"]);
    let of = plan["repositories"].as_array().unwrap().iter().find(|each| each["repository"] == repository).unwrap();
    of["wal"].as_array().unwrap().clone()
}

/// Restores from the backup `id` to the moment of `row`, and looks.
pub fn require_restorable(desk: &Desk, id: &str, row: &Acknowledged) {
    let copy = Copy::restore(desk, "c", &["--backup", id, "--target-time", &row.at]);
    assert_eq!(copy.rows(), (1..=row.id).collect::<Vec<_>>(), "from {id}");
}

#[test]
fn g5_expiry_takes_old_base_backups_and_their_wal_and_every_kept_one_restores() {
    let desk = desk("{ count = 2 }");
    let rows = generations(&desk, 4);
    let (before, all) = (bases(&desk), segments(&desk, "local"));
    let planned = wal_plan(&desk, "local");
    let going: Vec<&Value> = planned.iter().filter(|each| each["keep"] == false).collect();
    let files: u64 = going.iter().map(|each| each["files"].as_u64().unwrap()).sum();
    assert!(files >= 2 && going[0]["first"] == all[0].as_str(), "{planned:?}");
    assert!(going[0]["reason"].as_str().unwrap().contains(&before[2]), "{planned:?}");
    assert_eq!((bases(&desk), segments(&desk, "local")), (before.clone(), all.clone()), "a plan deletes nothing");
    let outcome = desk.json(0, &["expire", "--yes"])["outcome"].clone();
    assert_eq!(outcome["verdict"], "ok", "{outcome}");
    let (kept, left) = (bases(&desk), segments(&desk, "local"));
    assert_eq!(kept, before[2..]);
    assert_eq!(left, all[all.len() - left.len()..], "it goes from below, without a hole");
    assert!(left.len() < all.len() && !left.is_empty());
    for (id, row) in kept.iter().zip(&rows[2..]) {
        require_restorable(&desk, id, row);
    }
    require_restorable(&desk, &kept[0], &rows[3]);
    let refused = desk.json(14, &["restore", "--to", "/nowhere/c", "--plan", "--target-time", &rows[1].at]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("any moment from"), "{refused}");
    assert_eq!(desk.run(&["wal", "list"]).status.code(), Some(0), "what expiry took is no gap");
    let again = desk.json(0, &["expire", "--yes"])["outcome"].clone();
    assert!(again["summary"].as_str().unwrap().starts_with("0 backups, 0 WAL files"), "{again}");
    assert_eq!(segments(&desk, "local"), left);
}

#[cfg(feature = "failpoints")]
#[test]
fn f03_killed_at_every_point_of_an_expiry_every_kept_base_backup_restores() {
    use std::os::unix::process::ExitStatusExt as _;

    use dbagent::host::FailPoint;

    let desk = desk("{ count = 1 }");
    let rows = generations(&desk, 8);
    let log = desk.site.root().join("fired");
    let mut fired = 0;
    for point in FailPoint::ALL.iter().map(|point| point.name()).filter(|name| name.starts_with("expire.")) {
        let nth = if point.contains("wal") { 2 } else { 1 };
        let killed = desk
            .command(&["expire", "--yes"])
            .env("DBAGENT_FAILPOINT", format!("{point}=kill:{nth}"))
            .env("DBAGENT_FAILPOINT_LOG", &log)
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stdout));
        fired += 1;
        let kept = bases(&desk);
        assert!(kept.len() >= 2, "{point}: {kept:?}");
        // The oldest that is still listed is the one whose log an expiry could have taken too early.
        let oldest = &rows[rows.len() - kept.len()];
        require_restorable(&desk, &kept[0], oldest);
    }
    assert_eq!((fired, std::fs::read_to_string(&log).unwrap().lines().count()), (5, 5));
    // What a kill cut off is told once more, and finished.
    assert!(matches!(desk.run(&["expire", "--yes"]).status.code(), Some(0 | 3)));
    assert_eq!(desk.json(0, &["expire", "--yes"])["outcome"]["verdict"], "ok");
    let kept = bases(&desk);
    assert_eq!(kept.len(), 2, "the last good one and the one before");
    for (id, row) in kept.iter().zip(&rows[6..]) {
        require_restorable(&desk, id, row);
    }
    let objects: Vec<_> = walk(&desk.site.root().join("local/wal"))
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(".zst.gpg"))
        .collect();
    assert_eq!(objects.len(), segments(&desk, "local").len(), "no bytes without a record are left");
}

#[test]
fn f69_wal_stays_until_the_repository_that_needs_it_has_the_same_bytes() {
    let desk = archive::desk();
    rewrite_plan(&desk, |plan| format!("{plan}keep = {{ local = {{ count = 1 }} }}\n"));
    let far = desk.site.directory("far");
    desk.configure(&format!("[repository.far]\nurl = 'file://{}'\n[agent]\nexpire_grace = '1 ms'\n", far.display()));
    archive::give(&desk);
    ledger(&desk);
    let rows = generations(&desk, 4);
    let all = segments(&desk, "local");
    assert_eq!(segments(&desk, "far"), all);
    // One that far never got, one whose record there says something else, and one whose bytes are gone.
    let of = |name: &str, end: &str| {
        walk(&far.join("wal")).into_iter().find(|path| {
            let file = path.file_name().unwrap().to_string_lossy().into_owned();
            file.starts_with(name) && file.ends_with(end) && !file.contains(".backup")
        })
    };
    let going: Vec<Value> = wal_plan(&desk, "local").into_iter().filter(|each| each["keep"] == false).collect();
    let last_going = going.iter().filter_map(|each| each["last"].as_str()).max().unwrap().to_owned();
    let needed = wal_plan(&desk, "far").into_iter().find(|each| each["keep"] == true).unwrap();
    let first_needed = needed["first"].as_str().unwrap().to_owned();
    let old: Vec<&String> = all.iter().filter(|name| (&first_needed..=&last_going).contains(name)).collect();
    assert!(old.len() >= 4, "{going:?}");
    std::fs::remove_file(of(old[1], ".json").unwrap()).unwrap();
    std::fs::remove_file(of(old[1], ".zst.gpg").unwrap()).unwrap();
    std::fs::remove_file(of(old[2], ".zst.gpg").unwrap()).unwrap();
    std::fs::write(of(old[3], ".json").unwrap(), "{}").unwrap();
    let outcome = desk.json(3, &["expire", "--yes"])["outcome"].clone();
    let codes: Vec<_> = outcome["findings"].as_array().unwrap().iter().map(|each| each["code"].clone()).collect();
    assert_eq!(codes, ["wal-held"], "{outcome}");
    let held = segments(&desk, "local");
    assert!(old[1..4].iter().all(|name| held.contains(name)), "{held:?}");
    assert!(held.len() < all.len(), "what far has did go");
    // far away altogether: nothing goes, whatever it may have.
    std::fs::rename(&far, desk.site.root().join("gone")).unwrap();
    desk.json(1, &["expire", "--yes"]);
    assert_eq!(segments(&desk, "local"), held);
    std::fs::rename(desk.site.root().join("gone"), &far).unwrap();
    // What is not readable there is taken away by hand; then it is carried over, and goes here.
    std::fs::remove_file(of(old[3], ".json").unwrap()).unwrap();
    std::fs::remove_file(of(old[3], ".zst.gpg").unwrap()).unwrap();
    std::fs::remove_file(of(old[2], ".json").unwrap()).unwrap();
    desk.run(&["wal", "sync"]);
    assert_eq!(desk.json(0, &["expire", "--yes"])["outcome"]["verdict"], "ok");
    let (local, far) = (segments(&desk, "local"), segments(&desk, "far"));
    assert!(old.iter().all(|name| !local.contains(name)), "{local:?}");
    let every: Vec<String> = all.iter().filter(|name| **name >= first_needed).cloned().collect();
    assert_eq!(far, every, "both sides counted: far has every segment that it needs");
    let oldest = bases_in(&desk, "far")[0].clone();
    let copy = Copy::restore(&desk, "c", &["--repository", "far", "--backup", &oldest, "--target-time", &rows[0].at]);
    assert_eq!(copy.rows(), [1]);
}

#[test]
fn a_base_backup_whose_manifest_is_refused_holds_all_wal() {
    let desk = desk("{ count = 1 }");
    generations(&desk, 3);
    let all = segments(&desk, "local");
    let signature = walk(&desk.site.root().join("local/base"))
        .into_iter()
        .filter(|path| path.to_string_lossy().ends_with(".manifest.json.sig"))
        .min()
        .unwrap();
    std::fs::write(&signature, "no signature").unwrap();
    let outcome = desk.json(3, &["expire", "--yes"])["outcome"].clone();
    assert!(outcome["summary"].as_str().unwrap().contains(" 0 WAL files"), "{outcome}");
    assert_eq!(segments(&desk, "local"), all);
}

#[test]
fn f46_a_record_that_cannot_be_believed_hides_nothing_but_its_own_segment() {
    let desk = desk("{ count = 1 }");
    let rows = generations(&desk, 3);
    let all = segments(&desk, "local");
    let record = |segment: &String| {
        let mut files = walk(&desk.site.root().join("local/wal")).into_iter();
        let name = format!("{segment}.json");
        files.find(|path| path.file_name().unwrap().to_string_lossy() == *name).unwrap()
    };
    let damage = |segment: &String| std::fs::write(record(segment), "{}").unwrap();
    let plan = |code: i32, target: &[&str]| {
        desk.json(code, &[&["restore", "--to", "/nowhere/c", "--plan", "--repository", "local"], target].concat())
    };
    damage(&all[0]);
    plan(0, &["--target-time", &rows[2].at]);
    let held = wal_plan(&desk, "local").into_iter().find(|each| each["first"] == all[0].as_str()).unwrap();
    assert!(held["keep"] == true && held["last"] == all[0].as_str(), "{held}");
    let outcome = desk.json(3, &["expire", "--yes"])["outcome"].clone();
    assert!(outcome["summary"].as_str().unwrap().contains("WAL files"), "{outcome}");
    let left = segments(&desk, "local");
    assert!(left.len() < all.len() && left.contains(&all[0]), "{left:?}");
    require_restorable(&desk, &bases(&desk)[0], &rows[1]);
    // The newest one: what is before it can be reached, and the segment is named.
    commit(&desk, 4);
    switch(&desk);
    let last = segments(&desk, "local").pop().unwrap();
    damage(&last);
    plan(0, &["--target-time", &rows[2].at]);
    let refused = plan(14, &["--latest"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains(&last), "{refused}");
}

#[test]
fn f71_f72_archiving_that_was_turned_off_and_a_slot_that_holds_wal_are_told() {
    let desk = archive::desk_with(&[("wal_keep_size", "0")]);
    ledger(&desk);
    commit(&desk, 1);
    switch(&desk);
    desk.configure("[wal]\nvolume_warning = 100\nvolume_critical = 100\n");
    let codes = |code: i32| {
        let told = desk.json(code, &["wal", "sync"]);
        let findings = told["findings"].as_array().unwrap().clone();
        findings.iter().map(|each| each["code"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(codes(3), ["archive-timeout"]);
    desk.site.server.sql("SELECT pg_create_physical_replication_slot('gone', true)").unwrap();
    assert!(codes(3).contains(&"slot-unbounded".to_owned()));
    for round in 0..4 {
        commit(&desk, 2 + round);
        switch(&desk);
    }
    desk.configure("backlog_warning = '1MB'\n");
    assert!(codes(3).contains(&"slot-lag".to_owned()));
    // Its WAL goes at the next checkpoint once the bound is passed.
    for statement in [
        "ALTER SYSTEM SET max_slot_wal_keep_size = '1MB'",
        "SELECT pg_reload_conf()",
        "SELECT pg_sleep(0.2)",
        "CHECKPOINT",
    ] {
        desk.site.server.sql(statement).unwrap();
    }
    assert_eq!(desk.site.ask("SELECT wal_status FROM pg_replication_slots"), "lost", "the slot did lose its WAL");
    assert!(codes(3).contains(&"slot-lost".to_owned()));
    desk.site.server.sql("SELECT pg_drop_replication_slot('gone')").unwrap();
    for command in ["", "/bin/true"] {
        desk.site.server.sql(&format!("ALTER SYSTEM SET archive_command = '{command}'")).unwrap();
        desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
        let shown = || desk.site.ask("SHOW archive_command");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while shown() != command && !(command.is_empty() && shown() == "(disabled)") {
            assert!(std::time::Instant::now() < deadline, "the setting is not in force: {}", shown());
        }
        assert!(codes(3).contains(&"archive-command".to_owned()), "{command:?}");
    }
}
