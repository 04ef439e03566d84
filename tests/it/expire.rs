//! Expiry: what it finishes, what it must leave alone, and that one trouble does not hold up the rest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dbagent::catalog::names::Leased;
use dbagent::catalog::{ArtifactName, Inventory, Record, Repository, Unsigned};
use dbagent::host::{Clock as _, ManualClock, SystemClock};
use dbagent::model::event::Events;
use dbagent::model::failure::FailureKind;
use dbagent::model::id::RunId;
use dbagent::model::keep::Keep;
use dbagent::model::manifest::Encoding;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::model::retention::Policy;
use dbagent::ops::backup::delete;
use dbagent::ops::{Setting, expire};
use dbagent::steps::hold::Hold;
use dbagent::storage::PutOptions;

use crate::catalog::{artifact_name, commit, empty_repository, inventory, now, repository, signer};
use crate::cli::Desk;
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};

fn setting() -> Setting {
    let clock = Arc::new(SystemClock::new());
    Setting { run: RunId::new(clock.now()), clock, events: Events::nowhere(), stop: Default::default() }
}

fn doors(repository: &Repository) -> expire::Doors {
    expire::Doors { repositories: vec![repository.clone()], unopened: Vec::new() }
}

/// Expires without any rule and without grace: only leftovers can go.
async fn clear(repository: &Repository) -> Outcome {
    let options =
        expire::Options { policies: Default::default(), grace: Duration::ZERO, checkpoints: Default::default() };
    expire::run(&doors(repository), &options, &setting()).await.unwrap()
}

#[tokio::test]
async fn f03_a_deletion_killed_after_its_tombstone_is_finished_by_the_next_expiry() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    commit(&repository, 1).await;
    repository.record(Record::Tombstone { artifact, reason: "test".into() }, now()).await.unwrap();
    let codes: Vec<_> = inventory(&repository).await.findings.into_iter().map(|finding| finding.code).collect();
    assert_eq!(codes, ["deletion-unfinished"]);
    clear(&repository).await;
    let listed = inventory(&repository).await;
    assert!(listed.findings.is_empty(), "{:?}", listed.findings);
    assert_eq!(listed.artifacts.len(), 1);
    let rest = repository.storage.list("full/", None).await.unwrap().objects;
    assert!(rest.iter().all(|object| !object.key.as_str().contains("030000")), "{rest:?}");
    assert_eq!(clear(&repository).await.verdict, Verdict::Ok);
}

#[tokio::test]
async fn f03_a_manifest_that_is_not_the_buried_one_is_left_alone() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    repository.record(Record::Tombstone { artifact, reason: "test".into() }, now()).await.unwrap();
    let manifest = artifact_name(0).manifest().unwrap();
    repository.storage.delete(&manifest, None).await.unwrap();
    repository.storage.put(&manifest, "{}".into(), &Default::default()).await.unwrap();
    clear(&repository).await;
    assert_eq!(repository.read(&manifest).await.unwrap(), "{}");
}

#[tokio::test]
async fn other_programs_uploads_and_dumps_in_the_same_bucket_are_left_alone() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    let begin = |key: &'static str| {
        let storage = repository.storage.clone();
        async move { storage.upload(&key.parse().unwrap(), &PutOptions::default()).await.unwrap() }
    };
    let ours = begin("full/test_full_20260101_030000.dump.gz.gpg").await;
    let theirs = [begin("warehouse/part-00001.parquet").await, begin("nightly/app.dump").await];
    repository.storage.put(&"nightly/app.sql.dump".parse().unwrap(), "x".into(), &Default::default()).await.unwrap();
    clear(&repository).await;
    let mut left: Vec<_> = repository.storage.unfinished().await.unwrap().into_iter().map(|each| each.key).collect();
    left.sort();
    assert_eq!(left, ["nightly/app.dump", "warehouse/part-00001.parquet"]);
    assert_eq!(repository.storage.list("nightly/", None).await.unwrap().objects.len(), 1);
    drop((ours, theirs));
}

/// Expires everything older than a second, save what rules must keep.
async fn expire_all(repository: &Repository) -> Outcome {
    let keep = Keep { age: Some("1 s".parse().unwrap()), ..Keep::default() };
    let policy = Policy { keep: Some(keep), floor: None, overdue_after: None };
    let policies = BTreeMap::from([(repository.name.clone(), BTreeMap::from([("full".to_owned(), policy)]))]);
    let options = expire::Options { policies, grace: Duration::ZERO, checkpoints: Default::default() };
    expire::run(&doors(repository), &options, &setting()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_asks_for_no_version_and_one_refused_deletion_does_not_hold_up_the_next() {
    let server = S3Server::start();
    let repository = repository(Arc::new(server.storage("r").await), &signer());
    for minute in 0..6 {
        commit(&repository, minute).await;
    }
    server.fault(Rule::once("DELETE", ".manifest.json", Action::Answer(403, "AccessDenied", Vec::new())));
    let outcome = expire_all(&repository).await;
    assert_eq!((server.fired(), outcome.verdict), (1, Verdict::Incomplete), "{outcome:?}");
    assert_eq!(outcome.findings.iter().filter(|finding| finding.code == "not-deleted").count(), 1);
    assert!(outcome.summary.starts_with("3 backups"), "{outcome:?}");
    let left = Inventory::read(&repository, Unsigned::Refuse, setting().clock.now()).await.unwrap();
    assert_eq!((left.artifacts.len(), left.half_buried.len()), (2, 1), "the last two good ones, and the refused one");
    let deletions = || server.requests().into_iter().filter(|seen| seen.method == "DELETE");
    assert!(deletions().count() > 3 && deletions().all(|seen| !seen.target.contains("versionId")));
}

#[test]
fn a_directory_that_is_not_mounted_does_not_keep_s3_from_expiring() {
    let server = S3Server::start();
    let desk = Desk::with_s3(&server);
    std::fs::remove_dir(desk.site.root().join("local")).unwrap();
    let outcome = desk.json(1, &["expire", "--yes"])["outcome"].clone();
    assert_eq!(outcome["verdict"], "incomplete", "{outcome}");
    let error = |name: &str| {
        let found = outcome["repositories"].as_array().unwrap().iter().find(|each| each["repository"] == name);
        found.unwrap()["error"].clone()
    };
    assert!(error("local").is_string() && error("s3").is_null(), "{outcome}");
}

#[tokio::test]
async fn a_backup_that_a_restore_reads_cannot_be_deleted_by_hand() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    let artifact = inventory(&repository).await.artifacts.remove(0);
    let setting = setting();
    let lease = repository.lease(artifact.manifest.id, setting.run, setting.clock.now()).await.unwrap();
    let refused = delete(&repository, &artifact, &setting).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert_eq!(inventory(&repository).await.artifacts.len(), 1);
    repository.end_lease(&lease).await.unwrap();
    delete(&repository, &artifact, &setting).await.unwrap();
    let left = Inventory::read(&repository, Unsigned::Refuse, setting.clock.now()).await.unwrap();
    assert!(left.artifacts.is_empty() && left.findings.is_empty(), "{:?}", left.findings);
}

#[tokio::test]
async fn leases_of_restores_that_died_do_not_stay_for_ever() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    let (real, long_ago) = (SystemClock::new().now(), now() - chrono::Duration::days(9));
    let dead = repository.lease(artifact, RunId::new(long_ago), long_ago).await.unwrap();
    let living = repository.lease(artifact, RunId::new(real), real).await.unwrap();
    clear(&repository).await;
    let left: Vec<_> = repository.storage.list("leases/", None).await.unwrap().objects;
    assert_eq!(left.iter().map(|object| &object.key).collect::<Vec<_>>(), [&living], "{dead}");
}

#[tokio::test]
async fn what_a_living_run_has_stored_is_left_alone_however_long_it_lives() {
    let repository = empty_repository();
    // Ahead of the store's own clock, so that all of it is old.
    let clock = ManualClock::at(SystemClock::new().now() + chrono::Duration::days(1));
    let setting = Setting { clock: Arc::new(clock.clone()), ..setting() };
    let name = ArtifactName::of_base(now()).unwrap();
    let part = name.part(1, &[Encoding::Tar]).unwrap();
    let hold = Hold::take(vec![(repository.clone(), Leased::Name(name.clone()))], &setting).await;
    repository.storage.put(&part, "x".into(), &PutOptions::default()).await.unwrap();
    let upload = repository.storage.upload(&name.part(2, &[Encoding::Tar]).unwrap(), &PutOptions::default()).await;
    let there = async || {
        let options =
            expire::Options { policies: BTreeMap::new(), grace: Duration::ZERO, checkpoints: BTreeMap::new() };
        expire::run(&doors(&repository), &options, &setting).await.unwrap();
        let stored = repository.storage.list(&name.begins(), None).await.unwrap().objects.len();
        (stored, repository.storage.unfinished().await.unwrap().len())
    };
    let living = hold.during(async {
        for _ in 0..40 {
            clock.slept_on_by(1).await;
            clock.advance(Duration::from_secs(30 * 60));
            // The lease that is renewed comes before the one it renews goes.
            tokio::task::yield_now().await;
            assert_eq!(there().await, (1, 1), "at {}", clock.now());
        }
    });
    living.await;
    let leases = repository.storage.list("leases/", None).await.unwrap().objects.len();
    assert_eq!(leases, 1, "one at a time");
    drop((hold, upload));
    clock.advance(Duration::from_secs(6 * 3600 + 1));
    assert_eq!(there().await, (0, 0), "a run that died holds nothing for longer than its last lease");
}

#[tokio::test]
async fn what_was_committed_while_an_expiry_was_under_way_stays() {
    let repository = empty_repository();
    // The manifest comes between the listing and the deletions: what the listing saw is a part without one.
    let name = ArtifactName::of_base(now()).unwrap();
    let part = name.part(1, &[Encoding::Tar]).unwrap();
    repository.storage.put(&part, "x".into(), &PutOptions::default()).await.unwrap();
    let options = expire::Options { policies: BTreeMap::new(), grace: Duration::ZERO, checkpoints: BTreeMap::new() };
    let mut plans = expire::plan(&doors(&repository), &options, &setting()).await;
    let leftovers = plans.remove(0).unwrap().leftovers;
    assert_eq!(leftovers.orphans, std::slice::from_ref(&part));
    repository.storage.put(&name.manifest().unwrap(), "{}".into(), &PutOptions::default()).await.unwrap();
    leftovers.clear(&repository, now()).await.unwrap();
    repository.storage.head(&part).await.unwrap();
}
