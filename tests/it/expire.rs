//! Expiry: what it finishes, what it must leave alone, and that one trouble does not hold up the rest.

use std::sync::Arc;
use std::time::Duration;

use dbagent::catalog::{Record, Repository};
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::event::Events;
use dbagent::model::id::RunId;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::ops::{Setting, expire};
use dbagent::storage::PutOptions;

use crate::catalog::{artifact_name, commit, empty_repository, inventory, now};

fn setting() -> Setting {
    let clock = Arc::new(SystemClock::new());
    Setting { run: RunId::new(clock.now()), clock, events: Events::nowhere(), stop: Default::default() }
}

/// Expires without any rule and without grace: only leftovers can go.
async fn clear(repository: &Repository) -> Outcome {
    let options = expire::Options { policies: Default::default(), grace: Duration::ZERO };
    expire::run(std::slice::from_ref(repository), &options, &setting()).await.unwrap()
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
