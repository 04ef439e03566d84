//! Base backups of a real cluster whose log is archived by our own binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use dbagent::catalog::{Inventory, Unsigned};
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::base::FileLine;
use dbagent::model::manifest::{Manifest, ObjectRole};
use dbagent::postgres::FileTree;
use dbagent::postgres::file_tree::Entry;
use dbagent::postgres::page::{PAGE_BYTES, Page, judge};
use serde_json::Value;

use crate::cli::Desk;
use crate::stage::archive;
use crate::stage::gpg::Gpg;

pub fn backup(desk: &Desk) -> Value {
    let run = desk.json(0, &["job", "run", "base"]);
    let outcome = run["run"]["end"]["result"]["done"].clone();
    assert_eq!(outcome["verdict"], "ok", "{run}");
    outcome
}

pub fn manifest(desk: &Desk) -> Manifest {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let artifacts = runtime.block_on(desk.site.artifacts("local"));
    artifacts.into_iter().rfind(|artifact| artifact.manifest.base.is_some()).unwrap().manifest
}

/// What `gpg -d | zstd -d | tar x` makes of every part, in `to`.
fn unpack_with_stock_tools(desk: &Desk, manifest: &Manifest, gpg: &Gpg, to: &Path) {
    for part in manifest.objects.iter().filter(|object| object.role == ObjectRole::Part) {
        let path = desk.site.root().join("local").join(part.key.as_str());
        let home = gpg.home().display();
        let script = format!(
            "set -o pipefail; gpg --homedir {home} --batch --quiet --trust-model always -d {} | zstd -dq | tar x -C {}",
            path.display(),
            to.display()
        );
        let output = Command::new("bash").args(["-c", &script]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

fn files_below(root: &Path, at: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        found.insert(path.strip_prefix(root).unwrap().display().to_string());
        if std::fs::symlink_metadata(&path).unwrap().is_dir() {
            files_below(root, &path, found);
        }
    }
}

#[test]
fn a_base_backup_is_complete_verified_and_readable_with_stock_tools() {
    let desk = archive::desk();
    desk.site.ask("CREATE UNLOGGED TABLE scratchpad AS SELECT n FROM generate_series(1, 1000) n");
    desk.site.ask("CHECKPOINT");
    let number = desk.site.ask("SELECT pg_relation_filepath('scratchpad')");
    // As a server leaves it that has its socket in its data directory.
    std::fs::write(desk.site.server.data_directory().join(".s.PGSQL.5432.lock"), "1\n").unwrap();
    let outcome = backup(&desk);
    assert!(outcome["repositories"][0]["stored_bytes"].as_u64().unwrap() > 1 << 20, "{outcome}");
    let manifest = manifest(&desk);
    let base = manifest.base.clone().unwrap();
    assert!(base.pages_verified && base.damaged.is_none() && base.start < base.stop, "{base:?}");
    assert_eq!((base.segment_bytes, base.major, base.from_standby), (1 << 20, 15, false), "{base:?}");
    let list = desk.json(0, &["backup", "list"]);
    assert_eq!(list["backups"][0]["verb"], "base-backup");
    assert_eq!(desk.json(0, &["backup", "verify", "--deep"])["verified"][0]["good"], true);

    let gpg = Gpg::new();
    gpg.import(&desk.site.pair.secret);
    let copy = desk.site.directory("copy");
    unpack_with_stock_tools(&desk, &manifest, &gpg, &copy);
    assert_eq!(std::fs::read_to_string(copy.join("backup_label")).unwrap(), base.backup_label);
    let mut found = BTreeSet::new();
    files_below(&copy, &copy, &mut found);
    for wanted in
        ["PG_VERSION", "global/pg_control", "base/5/1259", "pg_wal/archive_status", "pg_notify", "pg_hba.conf"]
    {
        assert!(found.contains(wanted), "{wanted} is not there");
    }
    for unwanted in ["postmaster.pid", "postmaster.opts", ".s.PGSQL.5432.lock", &number] {
        assert!(!found.contains(unwanted), "{unwanted} is there");
    }
    assert!(found.contains(&format!("{number}_init")), "the unlogged table begins anew");
    assert_eq!(base.files, found.len() as u64 - u64::from(found.contains("pg_tblspc/x")));
}

#[tokio::test(flavor = "multi_thread")]
async fn f65_every_page_of_a_cluster_at_rest_has_the_checksum_that_we_compute() {
    let mut site = crate::stage::site::Site::new();
    site.ask(
        "CREATE INDEX ON orders USING hash (note); CREATE INDEX ON events USING gin (to_tsvector('simple', what))",
    );
    site.server.stop();
    let root = site.server.data_directory();
    let (mut pages, mut forks) = (0, BTreeSet::new());
    FileTree::new(&root, 15)
        .walk(&mut |entry: Entry| {
            let Some(relation) = entry.relation else { return Ok(()) };
            forks.insert(format!("{:?}", relation.fork));
            let bytes = std::fs::read(root.join(&entry.path)).unwrap();
            for (block, page) in bytes.chunks_exact(PAGE_BYTES).enumerate() {
                assert_eq!(judge(page, u32::try_from(block).unwrap()), Page::Whole, "{} block {block}", entry.path);
                pages += 1;
            }
            Ok(())
        })
        .unwrap();
    assert!(pages > 1000 && forks.len() >= 3, "{pages} pages of {forks:?}");
}

#[test]
fn a_damaged_page_is_found_named_and_makes_the_backup_not_count() {
    let mut desk = archive::desk();
    backup(&desk);
    let path = desk.site.ask("SELECT pg_relation_filepath('orders')");
    desk.site.server.stop();
    let file = desk.site.server.data_directory().join(&path);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[3 * PAGE_BYTES + 4000] ^= 0x40;
    std::fs::write(&file, bytes).unwrap();
    desk.site.server.resume().unwrap();
    let run = desk.json(3, &["job", "run", "base"]);
    let findings = run["run"]["end"]["result"]["done"]["findings"].to_string();
    assert!(findings.contains("pages-damaged") && findings.contains(&format!("{path} block 3")), "{findings}");
    let list = desk.json(0, &["backup", "list"]);
    let verified: Vec<bool> =
        list["backups"].as_array().unwrap().iter().map(|backup| backup["verified"] == true).collect();
    assert_eq!(verified.iter().filter(|good| **good).count(), 1, "the older one is the last good: {list}");
}

#[test]
fn f63_without_its_log_a_base_backup_is_not_complete() {
    let desk = archive::desk();
    desk.site.server.sql("ALTER SYSTEM SET archive_command = 'false'").unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("'60 seconds'", "'2 seconds'")).unwrap();
    let run = desk.json(1, &["job", "run", "base"]);
    let said = run.to_string();
    assert!(said.contains("did not arrive within 2 s") && said.contains("pg_stat_archiver"), "{said}");
    assert_eq!(desk.json(10, &["backup", "show", "latest"])["error"]["code"], 10);
    let failed = desk.site.ask("SELECT failed_count > 0 FROM pg_stat_archiver");
    assert_eq!(failed, "t", "the archiver was really failing");
}

#[test]
fn a_server_that_does_not_archive_is_refused_before_anything_is_read() {
    let desk = Desk::new();
    let refused = desk.json(15, &["job", "run", "base"]);
    assert!(refused["error"]["hint"].as_str().unwrap().contains("archive_command"), "{refused}");
    assert!(!desk.site.root().join("local/base").exists());
}

#[test]
fn tablespaces_and_the_list_of_files_are_in_it() {
    let desk = archive::desk();
    let place = desk.site.directory("tablespace");
    archive::give(&desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())).unwrap();
    desk.site
        .ask("CREATE TABLE far TABLESPACE elsewhere AS SELECT n, repeat('x', 500) FROM generate_series(1, 20000) n");
    let path = desk.site.ask("SELECT pg_relation_filepath('far')");
    backup(&desk);
    let manifest = manifest(&desk);
    let base = manifest.base.clone().unwrap();
    assert_eq!(base.tablespaces.len(), 1);
    assert_eq!(base.tablespaces[0].path, place.display().to_string());
    assert!(base.tablespace_map.contains(&place.display().to_string()));
    let lines = file_list(&desk, &manifest);
    let far = lines.iter().find(|line| line.path == path).unwrap();
    assert!(far.size.unwrap() > 10 << 20 && far.digest.is_some(), "{far:?}");
    assert_eq!(lines.len() as u64, base.files);
    assert_eq!(lines.iter().filter_map(|line| line.size).sum::<u64>(), base.bytes);
    let parts: BTreeSet<u32> = lines.iter().map(|line| line.part).collect();
    assert!(parts.len() > 3, "{parts:?}");
    let last = lines.iter().find(|line| line.path == "backup_label").unwrap().part;
    assert_eq!(Some(&last), parts.last(), "the label is in the last part");
}

/// The list of files, read as a restore reads it.
pub fn file_list(desk: &Desk, manifest: &Manifest) -> Vec<FileLine> {
    let object = manifest.object(ObjectRole::Files).unwrap().clone();
    let keys = desk.site.restore_doors().keys;
    let storage = desk.site.repositories[0].storage.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut source = runtime.block_on(async {
        let download = storage.get(&object.key, None, None).await.unwrap();
        dbagent::pipeline::fetch::open(download, &object, keys.as_ref()).await.unwrap()
    });
    let mut text = String::new();
    std::io::Read::read_to_string(&mut source, &mut text).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn every_codec_makes_a_backup_that_verifies() {
    let desk = archive::desk();
    for (codec, level, end) in [("gzip", 3, ".tar.gz.gpg"), ("lz4", 1, ".tar.lz4.gpg"), ("zstd", 3, ".tar.zst.gpg")] {
        let text = std::fs::read_to_string(&desk.config).unwrap();
        let with = format!("[base_backup]\ncompression = '{codec}'\ncompression_level = {level}\n");
        let without: String =
            text.lines().filter(|line| !line.starts_with("compression")).map(|line| format!("{line}\n")).collect();
        std::fs::write(&desk.config, without.replace("[base_backup]\n", &with)).unwrap();
        backup(&desk);
        let manifest = manifest(&desk);
        assert!(manifest.objects.iter().any(|object| object.key.as_str().ends_with(end)), "{codec}");
    }
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert!(verified["verified"].as_array().unwrap().iter().all(|each| each["good"] == true), "{verified}");
}

#[cfg(feature = "failpoints")]
#[test]
fn f01_killed_at_every_point_of_a_base_backup_nothing_half_made_is_listed() {
    use std::os::unix::process::ExitStatusExt as _;

    let desk = archive::desk();
    let log = desk.site.root().join("fired");
    let points = [
        "base.started",
        "part.mid_stream",
        "base.part_committed",
        "base.stopped",
        "base.before_manifest",
        "catalog.claimed",
        "catalog.signature_put",
        "catalog.manifest_put",
    ];
    let mut fired = 0;
    for (at, point) in points.into_iter().enumerate() {
        let killed = desk
            .command(&["job", "run", "base"])
            .env("DBAGENT_FAILPOINT", format!("{point}=kill:{}", 1 + at % 2 * usize::from(point.starts_with("part."))))
            .env("DBAGENT_FAILPOINT_LOG", &log)
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        fired += 1;
        assert_eq!(
            desk.site.ask(
                "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE '%backup_start%' AND pid <> pg_backend_pid()"
            ),
            "0"
        );
        let listed = good(&desk);
        assert_eq!(listed, usize::from(point == "catalog.manifest_put"), "{point}");
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), fired);
    archive::give(&desk);
    let run = desk.command(&["job", "run", "base"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(good(&desk), 2);
}

/// Base backups that are listed; each of them must be whole.
#[cfg(feature = "failpoints")]
fn good(desk: &Desk) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let repository = &desk.site.repositories[0];
    let inventory = runtime.block_on(Inventory::read(repository, Unsigned::Refuse, SystemClock::new().now())).unwrap();
    for artifact in &inventory.artifacts {
        for object in &artifact.manifest.objects {
            assert!(desk.site.root().join("local").join(object.key.as_str()).exists(), "{}", object.key);
        }
    }
    inventory.artifacts.len()
}
