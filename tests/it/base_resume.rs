//! A base backup that was killed is gone on with: what is used again is what the files still hold, and nothing else.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;

use dbagent::model::base::BaseKind;
use dbagent::model::manifest::{Manifest, ObjectRole};
use serde_json::Value;

use crate::base_backup::{backup, manifest};
use crate::base_incremental;
use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{Copy, walk};
use crate::recover_lost;
use crate::stage::archive::switch;
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};

/// Sums over everything that the tests change.
const SUMS: &str = "SELECT string_agg(name || sum, ' ' ORDER BY name) FROM ( \
     SELECT 'still' AS name, md5(string_agg(s::text, ',' ORDER BY n)) AS sum FROM still s \
     UNION ALL SELECT 'busy', md5(string_agg(b::text, ',' ORDER BY n)) FROM busy b \
     UNION ALL SELECT 'orders', md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o) x";

/// A desk with tables of several parts each; `busy` is the one that changes.
pub fn desk() -> Desk {
    let desk = base_incremental::desk();
    for table in ["still", "busy", "gone"] {
        desk.site.ask(&format!(
            "CREATE TABLE {table} AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 15000) n"
        ));
        desk.site.ask(&format!("VACUUM {table}"));
    }
    desk.site.ask("CHECKPOINT");
    desk
}

/// Runs `job` until `point` kills it.
pub fn kill(desk: &Desk, job: &str, point: &str) {
    let log = desk.site.root().join("fired");
    let before = std::fs::read_to_string(&log).unwrap_or_default().lines().count();
    let mut command = desk.command(&["job", "run", job]);
    let killed = command.env("DBAGENT_FAILPOINT", point).env("DBAGENT_FAILPOINT_LOG", &log).output().unwrap();
    assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), before + 1, "{point} fired");
}

/// What the finding says of parts used again: how many of how many.
pub fn resumed(outcome: &Value) -> Option<(usize, usize)> {
    let findings = outcome["findings"].as_array().unwrap();
    let message = findings.iter().find(|finding| finding["code"] == "resumed")?["message"].as_str().unwrap();
    let mut numbers = message.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next().unwrap(), numbers.next().unwrap()))
}

pub fn folders(desk: &Desk) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::fs::read_dir(desk.site.root().join("local/base")).unwrap().map(|entry| entry.unwrap().path()).collect();
    folders.sort();
    folders
}

/// Everything in the backup's folder is named by its manifest, and the other way round.
fn folder_is_the_manifests(desk: &Desk, manifest: &Manifest) {
    let root = desk.site.root().join("local");
    let folder = root.join(manifest.objects[0].key.as_str());
    let there =
        walk(folder.parent().unwrap()).into_iter().map(|path| path.strip_prefix(&root).unwrap().display().to_string());
    let strangers: Vec<String> = there
        .filter(|key| {
            !key.contains(".manifest.json") && !manifest.objects.iter().any(|object| object.key.as_str() == key)
        })
        .collect();
    assert_eq!(strangers, Vec::<String>::new());
    let verified = desk.json(0, &["backup", "verify", "--deep", "latest"]);
    assert_eq!(verified["verified"][0]["good"], true, "{verified}");
}

#[test]
fn f01_a_killed_base_backup_is_gone_on_with_and_only_what_changed_is_sent_again() {
    let desk = desk();
    kill(&desk, "base", "base.stopped=kill");
    let before = folders(&desk);
    let stored = walk(&before[0]).len();
    desk.site
        .ask("UPDATE busy SET t = t || 'x' WHERE n % 50 = 1; DROP TABLE gone; CREATE TABLE later AS SELECT 7 AS n");
    let outcome = backup(&desk);
    let (used, found) = resumed(&outcome).expect("it was gone on with");
    assert!(used >= 1 && used < found && found <= stored, "{used} of {found}, {stored} stored");
    assert_eq!(folders(&desk), before, "it is the same backup");
    let made = manifest(&desk);
    folder_is_the_manifests(&desk, &made);
    assert!(!desk.site.root().join("state/base/base/head").exists(), "its notes are gone");
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(SUMS), sums);
    assert_eq!(copy.ask("SELECT n FROM later"), "7");
    assert_eq!(copy.ask("SELECT to_regclass('gone') IS NULL"), "t");
    drop(copy);
    assert!(resumed(&backup(&desk)).is_none() && folders(&desk).len() == 2, "the next one is a new one");
}

#[test]
fn f01_killed_again_and_again_while_the_database_changes_it_restores_to_the_source() {
    let desk = desk();
    desk.site.ask("CREATE INDEX ON busy (n); CREATE TABLE grown AS SELECT 1 AS n");
    let points = [
        "part.mid_stream=kill:40",
        "base.part_committed=kill:3",
        "base.part_committed=kill",
        "base.stopped=kill",
        "base.before_manifest=kill",
    ];
    for (seed, point) in points.into_iter().enumerate() {
        kill(&desk, "base", point);
        desk.site.ask(&format!("UPDATE busy SET t = t || 'x' WHERE n % 60 = {seed}"));
        desk.site.ask(&format!(
            "INSERT INTO grown SELECT generate_series(1, 30000); DELETE FROM orders WHERE id % 97 = {seed}"
        ));
        desk.site.ask("VACUUM grown");
        desk.site.ask("CHECKPOINT");
    }
    desk.site.ask("VACUUM FULL gone");
    desk.site.ask("TRUNCATE grown");
    let outcome = backup(&desk);
    assert!(resumed(&outcome).expect("it was gone on with").0 >= 1, "{outcome}");
    folder_is_the_manifests(&desk, &manifest(&desk));
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(SUMS), sums);
    assert_eq!(copy.ask("SELECT (SELECT count(*) FROM gone) || ' ' || (SELECT count(*) FROM grown)"), "15000 0");
    crate::base_workload::amcheck(&copy, 0);
}

#[test]
fn an_incremental_one_is_gone_on_with_and_its_chain_restores_to_the_source() {
    let desk = desk();
    backup(&desk);
    desk.site.ask("UPDATE busy SET t = t || 'x' WHERE n % 50 = 1");
    desk.site.ask("CHECKPOINT");
    kill(&desk, "base-incremental", "base.stopped=kill");
    desk.site.ask("UPDATE busy SET t = t || 'y' WHERE n % 50 = 2");
    base_incremental::incremental(&desk);
    let made = manifest(&desk);
    assert_eq!(made.base.as_ref().unwrap().kind, BaseKind::Incremental);
    folder_is_the_manifests(&desk, &made);
    assert_eq!(folders(&desk).len(), 2);
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(SUMS), sums);
}

#[test]
fn nothing_is_used_again_on_other_terms_or_of_a_backup_that_was_being_committed() {
    let desk = desk();
    for point in ["catalog.claimed=kill", "catalog.signature_put=kill", "catalog.manifest_put=kill"] {
        kill(&desk, "base", point);
        assert_eq!(resumed(&backup(&desk)), None, "{point}");
    }
    let made = folders(&desk).len();
    kill(&desk, "base", "base.stopped=kill");
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("[base_backup]\n", "[base_backup]\ncompression = 'lz4'\n")).unwrap();
    assert_eq!(resumed(&backup(&desk)), None, "another codec");
    assert_eq!(folders(&desk).len(), made + 2);
}

#[test]
fn where_nothing_may_be_deleted_an_interrupted_run_is_begun_anew_at_once() {
    let server = S3Server::start();
    let desk = recover_lost::with_far_store(desk(), &server);
    kill(&desk, "base", "base.part_committed=kill:3");
    let before = folders(&desk).len();
    server.fault(Rule::once("DELETE", "", Action::Answer(403, "AccessDenied", Vec::new())).times(10_000));
    let outcome = backup(&desk);
    assert!(server.fired() > 0, "a deletion was denied");
    assert_eq!((resumed(&outcome), folders(&desk).len()), (None, before + 1), "{outcome}");
    assert_eq!((bases_in(&desk, "local").len(), bases_in(&desk, "s3").len()), (1, 1));
}

#[test]
fn a_part_that_is_lost_or_altered_in_the_repository_is_sent_again() {
    let desk = desk();
    kill(&desk, "base", "base.stopped=kill");
    let mut parts: Vec<PathBuf> =
        walk(&folders(&desk)[0]).into_iter().filter(|path| path.display().to_string().contains("part-")).collect();
    parts.sort();
    std::fs::remove_file(&parts[0]).unwrap();
    std::fs::write(&parts[1], "short").unwrap();
    let mut bytes = std::fs::read(&parts[2]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&parts[2], bytes).unwrap();
    let outcome = backup(&desk);
    let (used, found) = resumed(&outcome).expect("it was gone on with");
    assert!(used >= 1 && used + 3 <= found, "{used} of {found}");
    let made = manifest(&desk);
    folder_is_the_manifests(&desk, &made);
    assert!(made.objects.iter().filter(|object| object.role == ObjectRole::Part).count() > 3);
    assert_eq!(bases_in(&desk, "local").len(), 1);
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    assert_eq!(Copy::restore(&desk, "c", &["--latest", "--action", "promote"]).ask(SUMS), sums);
}
