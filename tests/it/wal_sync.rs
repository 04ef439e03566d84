//! What one repository has the other gets, what nobody has is told, and archiving that has stopped is found.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbagent::catalog::Repository;
use dbagent::host::SystemClock;
use dbagent::model::event::Events;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::id::RunId;
use dbagent::model::lsn::Timeline;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::model::wal::{SegmentName, WalFile};
use dbagent::ops::Setting;
use dbagent::ops::wal::sync::{self, Doors};
use dbagent::ops::wal::verify;
use dbagent::steps::wal::{Fetched, GapState, Thresholds, store};
use dbagent::storage::{Fault, Faulty, MemoryStorage, Operation, StorageErrorKind};
use tokio_util::sync::CancellationToken;

use crate::base_backup::{backup, manifest};
use crate::recover::{Copy, commit, ledger, walk};
use crate::stage::archive;
use crate::stage::s3::S3Server;
use crate::stage::wal::{WalSite, fetched, file, now};
use crate::wal_archiver::{Archive, code};

pub fn setting() -> Setting {
    let clock = Arc::new(SystemClock::new());
    Setting { run: RunId::new(now()), clock, events: Events::nowhere(), stop: CancellationToken::new() }
}

fn doors(site: &WalSite, repositories: &[Repository], data_directory: Option<PathBuf>) -> Doors {
    Doors {
        blocks: None,
        repositories: repositories.to_vec(),
        unopened: Vec::new(),
        options: site.options(),
        server: Ok(site.server.connection().unwrap()),
        data_directory,
        thresholds: Thresholds { backlog: (1 << 30, 2 << 30), volume: (100, 100) },
    }
}

async fn sync(site: &WalSite, repositories: &[Repository], data_directory: Option<PathBuf>) -> Outcome {
    sync::run(&doors(site, repositories, data_directory), &setting()).await.unwrap()
}

/// The codes of what was found, without what the server of a site, which archives nothing, always gives rise to.
fn codes(outcome: &Outcome) -> Vec<String> {
    let codes = outcome.findings.iter().map(|finding| finding.code.clone());
    codes.filter(|code| code != "archiving-off").collect()
}

async fn push(site: &WalSite, repository: &Repository, segment: SegmentName) {
    let input = site.input(segment);
    store(&input, std::slice::from_ref(repository), &site.options(), now()).await.pop().unwrap().1.unwrap();
}

async fn memory(site: &WalSite, name: &str) -> Repository {
    site.repository(name, Arc::new(MemoryStorage::new())).await
}

async fn holds(site: &WalSite, repository: &Repository, segment: SegmentName) -> bool {
    match fetched(file(segment), None, &site.doors(std::slice::from_ref(repository))).await.unwrap() {
        Fetched::There(bytes) => bytes == std::fs::read(site.path(segment)).unwrap(),
        Fetched::NotThere => false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f70_what_is_durable_in_one_repository_is_carried_to_the_others() {
    let site = WalSite::new();
    let (local, remote) = (memory(&site, "local").await, memory(&site, "s3").await);
    let segments = site.segments(4);
    for segment in &segments {
        push(&site, &local, *segment).await;
    }
    let history = site.files.path().join("00000002.history");
    std::fs::write(&history, "1\t0/3000148\tno recovery target specified\n").unwrap();
    let input = site.check(&history).unwrap();
    store(&input, std::slice::from_ref(&local), &site.options(), now()).await.pop().unwrap().1.unwrap();
    let repositories = [local, remote.clone()];
    let outcome = sync(&site, &repositories, None).await;
    assert!(outcome.summary.starts_with("5 files carried"), "{}", outcome.summary);
    for segment in &segments {
        assert!(holds(&site, &remote, *segment).await, "{segment}");
    }
    assert!(remote.wal_history(Timeline(2), now()).await.unwrap().is_some());
    let again = sync(&site, &repositories, None).await;
    assert!(again.summary.starts_with("0 files carried"), "{}", again.summary);
    let found = doors(&site, &repositories, None).survey(&setting()).await;
    let read = verify::read_back(&found, &doors(&site, &repositories, None), &setting()).await.unwrap();
    assert_eq!((read.files, read.findings.len()), (8, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn f44_a_store_that_is_away_is_left_behind_and_caught_up_with_in_order() {
    let site = WalSite::new();
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryStorage::new())));
    let (local, remote) = (memory(&site, "local").await, site.repository("s3", faulty.clone()).await);
    let segments = site.segments(5);
    for segment in &segments {
        push(&site, &local, *segment).await;
    }
    faulty.fault(Operation::Upload, Fault::Fails(StorageErrorKind::Transient));
    let outcome = sync(&site, &[local.clone(), remote.clone()], None).await;
    assert_eq!((faulty.fired(), outcome.verdict), (1, Verdict::Incomplete));
    let error = |name: &str| outcome.repositories.iter().find(|each| each.repository == name).unwrap().error.is_some();
    assert!(error("s3") && !error("local"));
    assert!(codes(&outcome).contains(&"wal-not-carried".to_owned()), "{:?}", outcome.findings);
    assert!(codes(&outcome).contains(&"wal-delayed".to_owned()), "{:?}", outcome.findings);
    assert!(!holds(&site, &remote, segments[0]).await);
    // The third upload fails: those before it stay.
    for fault in [Fault::Passes, Fault::Passes, Fault::Fails(StorageErrorKind::Transient)] {
        faulty.fault(Operation::Upload, fault);
    }
    sync(&site, &[local.clone(), remote.clone()], None).await;
    let coverage = remote.wal_coverage(Timeline(1), site.size()).await.unwrap();
    assert_eq!(coverage.last(), Some(segments[1]), "oldest first, and nothing after the failure");
    let outcome = sync(&site, &[local, remote.clone()], None).await;
    assert_eq!(codes(&outcome), Vec::<String>::new(), "{:?}", outcome.findings);
    assert!(holds(&site, &remote, segments[4]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f57_each_gap_is_found_with_its_state_and_closed_from_pg_wal_where_that_can_be() {
    let site = WalSite::new();
    let local = memory(&site, "local").await;
    let segments = site.segments(6);
    for segment in &segments {
        push(&site, &local, *segment).await;
    }
    let states = async |data_directory: Option<PathBuf>| {
        let found = doors(&site, std::slice::from_ref(&local), data_directory).survey(&setting()).await;
        let missing = found.timelines.into_iter().flat_map(|timeline| timeline.missing);
        missing.map(|missing| (missing.range.first, missing.range.last, missing.state)).collect::<Vec<_>>()
    };
    for missing in &segments[1..5] {
        let record = local.wal_record(file(*missing), now()).await.unwrap().unwrap();
        local.remove_wal_record(file(*missing)).await.unwrap();
        assert_eq!(states(None).await, [(*missing, *missing, GapState::Uploading)], "its bytes are young");
        local.storage.delete(&record.object, None).await.unwrap();
        assert_eq!(states(None).await, [(*missing, *missing, GapState::Lost)]);
        let told = sync(&site, std::slice::from_ref(&local), None).await;
        assert_eq!(codes(&told), ["wal-gap"]);
        // The server's pg_wal still has it, once PostgreSQL counts it as done.
        std::fs::write(site.pg_wal().join(format!("archive_status/{missing}.done")), "").unwrap();
        let data = Some(site.server.data_directory());
        assert_eq!(states(data.clone()).await, [(*missing, *missing, GapState::Delayed)]);
        let mended = sync(&site, std::slice::from_ref(&local), data).await;
        assert_eq!(codes(&mended), Vec::<String>::new(), "{:?}", mended.findings);
        assert!(holds(&site, &local, *missing).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f60_a_timeline_is_needed_up_to_where_its_children_branch_off() {
    let site = WalSite::new();
    let local = memory(&site, "local").await;
    let segments = site.segments(3);
    push(&site, &local, segments[0]).await;
    push(&site, &local, segments[1]).await;
    let size = site.size();
    let branch = segments[2].next(size).unwrap().start(size).unwrap().0 + 0x148;
    let history = site.files.path().join("00000002.history");
    std::fs::write(&history, format!("1\t{:X}/{:X}\tx\n", branch >> 32, branch & 0xffff_ffff)).unwrap();
    let input = site.check(&history).unwrap();
    store(&input, std::slice::from_ref(&local), &site.options(), now()).await.pop().unwrap().1.unwrap();
    let outcome = sync(&site, std::slice::from_ref(&local), None).await;
    assert_eq!(codes(&outcome), ["wal-gap"], "{:?}", outcome.findings);
    push(&site, &local, segments[2]).await;
    let outcome = sync(&site, std::slice::from_ref(&local), None).await;
    assert_eq!(codes(&outcome), Vec::<String>::new(), "{:?}", outcome.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_whose_retention_is_shorter_gets_nothing_back() {
    let site = WalSite::new();
    let (local, remote) = (memory(&site, "local").await, memory(&site, "s3").await);
    let segments = site.segments(4);
    for segment in &segments {
        push(&site, &local, *segment).await;
    }
    for segment in &segments[2..] {
        push(&site, &remote, *segment).await;
    }
    let outcome = sync(&site, &[local, remote.clone()], None).await;
    assert!(outcome.summary.starts_with("0 files carried"), "{}", outcome.summary);
    assert!(!holds(&site, &remote, segments[1]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_two_repositories_with_different_files_of_one_name_are_told() {
    let site = WalSite::new();
    let (local, remote) = (memory(&site, "local").await, memory(&site, "s3").await);
    let segments = site.segments(3);
    for repository in [&local, &remote] {
        push(&site, repository, segments[0]).await;
    }
    push(&site, &local, segments[1]).await;
    let other = site.check(&site.copy(segments[1], segments[1], |bytes| bytes[5000] ^= 1)).unwrap();
    store(&other, std::slice::from_ref(&remote), &site.options(), now()).await.pop().unwrap().1.unwrap();
    let failure: Failure =
        dbagent::steps::wal::copy(WalFile::Segment(segments[1]), &local, &remote, now()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedForSafety);
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_bytes_that_changed_are_found_by_reading_them_back_and_are_not_carried() {
    let site = WalSite::new();
    let faulty = Arc::new(Faulty::new(Arc::new(MemoryStorage::new())));
    let (local, remote) = (site.repository("local", faulty.clone()).await, memory(&site, "s3").await);
    let segment = site.segments(1)[0];
    push(&site, &local, segment).await;
    let (doors, setting) = (doors(&site, std::slice::from_ref(&local), None), setting());
    let found = doors.survey(&setting).await;
    faulty.fault(Operation::Get, Fault::Passes);
    faulty.fault(Operation::Get, Fault::FlipsByte(1000));
    let read = verify::read_back(&found, &doors, &setting).await.unwrap();
    assert_eq!((faulty.fired(), read.files), (1, 0));
    assert_eq!(read.findings[0].code, "wal-damaged");
    faulty.fault(Operation::Get, Fault::Passes);
    faulty.fault(Operation::Get, Fault::FlipsByte(1000));
    dbagent::steps::wal::copy(file(segment), &local, &remote, now()).await.unwrap_err();
    assert_eq!(faulty.fired(), 2);
    assert!(remote.wal_record(file(segment), now()).await.unwrap().is_none());
}

#[test]
fn archiving_that_says_it_archives_and_does_not_is_found() {
    let archive = Archive::with(1, &[("archive_timeout", "60s")]);
    archive.wait_archived(archive.segment());
    let sound = archive.run(&["wal", "sync", "--json"]);
    assert_eq!(code(&sound), 0, "{sound:?}");
    // From now on PostgreSQL believes that everything is archived.
    archive.write(&archive.server.directory().join("push.sh"), "exit 0 # wal push");
    let lost = archive.segment();
    archive.wait_archived(lost);
    let told = archive.run(&["wal", "list"]);
    assert_eq!(code(&told), 3, "{told:?}");
    let synced = archive.run(&["wal", "sync", "--json"]);
    assert_eq!(code(&synced), 3, "a command that archives nothing is told: {synced:?}");
    assert!(String::from_utf8_lossy(&synced.stdout).contains("archived-not-stored"), "{synced:?}");
    assert_eq!(archive.fetch(lost).0, Some(0), "and what pg_wal still had was stored");
    let again = archive.run(&["wal", "verify"]);
    let text = String::from_utf8_lossy(&again.stdout).into_owned();
    assert!(text.contains("read back"), "{text}");
}

/// The store is away: PostgreSQL is told "archived" by the directory alone, the rest follows, and then this host is lost.
#[test]
fn f70_a_local_acknowledgement_is_carried_on_and_survives_the_host() {
    let archive = Archive::with(1, &[("archive_timeout", "60s")]);
    let far = |endpoint: &str| {
        format!(
            "[repository.far]\nurl = 's3://{}/shop'\nendpoint = '{endpoint}'\npath_style = true\n\
             region = '{}'\n",
            crate::stage::s3::BUCKET,
            crate::stage::s3::REGION
        )
    };
    archive.configure(&far("http://127.0.0.1:1"));
    archive.script("push", &["wal", "push", "$1"], "export DBAGENT_WAL__ACK=local");
    let segments: Vec<_> = (0..2).map(|_| archive.segment()).collect();
    archive.wait_archived(segments[1]);
    assert_eq!(archive.failed_count(), 0);
    let store = S3Server::start();
    archive.configure(&far(&store.endpoint()));
    let run = |words: &[&str]| {
        archive.command(words).env("DBAGENT_WAL__ACK", "local").envs(store.environment()).output().unwrap()
    };
    let before = run(&["wal", "list"]);
    assert_eq!(code(&before), 3, "what is only local-durable is told: {before:?}");
    let carried = run(&["wal", "sync", "--json"]);
    assert_eq!(code(&carried), 0, "{carried:?}");
    assert_eq!(code(&run(&["wal", "verify"])), 0);
    std::fs::rename(archive.root().join("local"), archive.root().join("local.lost")).unwrap();
    for segment in &segments {
        let place = archive.root().join("state/fetched");
        let fetched = run(&["wal", "fetch", &segment.to_string(), place.to_str().unwrap()]);
        assert_eq!(code(&fetched), 0, "{fetched:?}");
        let original = archive.server.data_directory().join(format!("pg_wal/{segment}"));
        assert_eq!(std::fs::read(&place).unwrap(), std::fs::read(original).unwrap());
        std::fs::remove_file(place).unwrap();
    }
    let unknown = run(&["wal", "fetch", "0000000100000000000000FF", archive.root().join("state/x").to_str().unwrap()]);
    assert_eq!(code(&unknown), 126, "a repository that is gone knows nothing: {unknown:?}");
    let refused = run(&["wal", "push", &format!("pg_wal/{}", segments[0])]);
    assert_eq!(code(&refused), 1, "the directory that must have it is gone");
}

/// Somebody deleted the oldest part of the log, and not the base backup that begins in it.
#[test]
fn f57_what_a_base_backup_needs_is_brought_back_or_told_before_a_repositorys_first_segment_too() {
    let desk = archive::desk_with(&[("archive_timeout", "60s"), ("wal_keep_size", "0")]);
    let far = desk.site.directory("far");
    desk.configure(&format!("[repository.far]\nurl = 'file://{}'\n", far.display()));
    desk.configure("[wal]\nvolume_warning = 100\nvolume_critical = 100\n");
    archive::give(&desk);
    ledger(&desk);
    archive::switch(&desk);
    let older = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn() - 1)");
    backup(&desk);
    let row = commit(&desk, 1);
    archive::switch(&desk);
    let first = manifest(&desk).base.unwrap().segments().unwrap().first.to_string();
    let local = desk.site.root().join("local");
    let stored = |root: &Path| {
        let names = walk(&root.join("wal"))
            .into_iter()
            .map(|path| path.file_name().unwrap().to_string_lossy()[..24].to_owned());
        names.collect::<BTreeSet<String>>()
    };
    let delete_to_first = |root: &Path| {
        let old = |path: &PathBuf| path.file_name().unwrap().to_string_lossy()[..24] <= *first;
        walk(&root.join("wal")).into_iter().filter(old).for_each(|path| std::fs::remove_file(path).unwrap());
        assert!(!stored(root).contains(&first));
    };
    delete_to_first(&local);
    let synced = desk.json(0, &["wal", "sync"]);
    assert!(stored(&local).contains(&first) && !stored(&local).contains(&older), "{synced}");
    std::fs::remove_dir_all(local.join("wal/00000001")).unwrap();
    desk.json(0, &["wal", "sync"]);
    assert!(stored(&local).contains(&first) && !stored(&local).contains(&older));
    let copy = Copy::restore(&desk, "c", &["--repository", "local", "--target-time", &row.at]);
    assert_eq!(copy.rows(), [1]);
    drop(copy);
    // Nobody has it any more.
    desk.site.server.sql("CHECKPOINT").unwrap();
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{first}'")), "0");
    [&local, &far].into_iter().for_each(|root| delete_to_first(root));
    let told = desk.json(3, &["wal", "sync"]);
    let gap = told["findings"].as_array().unwrap().iter().find(|each| each["code"] == "wal-gap");
    assert!(gap.is_some_and(|gap| gap["message"].as_str().unwrap().contains(&first)), "{told}");
}

/// The plan's job in a running agent, and what `status` and `check` then say.
#[test]
fn the_job_runs_and_status_and_check_show_the_archive() {
    let archive = Archive::with(1, &[("archive_timeout", "60s")]);
    let segment = archive.segment();
    archive.wait_archived(segment);
    let ran = archive.run(&["job", "run", "wal-sync", "--json"]);
    assert_eq!(code(&ran), 0, "{ran:?}");
    let status = archive.run(&["status"]);
    let text = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(text.contains(&segment.to_string()) && text.contains("whole"), "{text}");
    let check = |what: &str| {
        let text = String::from_utf8_lossy(&archive.run(&["check"]).stdout).into_owned();
        text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what}: {text}")).to_owned()
    };
    assert!(check("wal-archiving").starts_with("OK"), "{}", check("wal-archiving"));
    assert!(check("wal-stored").starts_with("OK"), "{}", check("wal-stored"));
    archive.write(&archive.server.directory().join("push.sh"), "exit 1");
    archive.segment();
    archive.wait("the archiver fails", || archive.failed_count() > 0);
    assert!(!check("wal-archiving").starts_with("OK"), "{}", check("wal-archiving"));
}
