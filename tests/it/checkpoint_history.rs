//! Thousands of checkpoints: read once, remembered, and missed when they are gone, whether anything is remembered or not.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use dbagent::catalog::{CheckpointHistory, Reading, Repository, Signer, Verifier};
use dbagent::model::audit::CHAIN;
use dbagent::model::audit::checkpoint::{Checkpoint, FORMAT, Occasion, Origin};
use dbagent::model::digest::Digest;
use dbagent::pipeline::openpgp::generate_signing_key;
use dbagent::storage::{DirectoryStorage, Fault, Faulty, Operation, Storage as _};
use tempfile::TempDir;

/// A repository whose reads and lists are counted, a day's worth of checkpoints every 288.
struct Shelf {
    files: TempDir,
    storage: Faulty,
    repository: Repository,
    now: DateTime<Utc>,
}

impl Shelf {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let now = "2026-03-20T12:00:00Z".parse().unwrap();
        let secret = generate_signing_key("test signing", now - TimeDelta::days(400)).unwrap().secret;
        let signer = Signer::from_secret_key(&secret, None, now).unwrap();
        let mut verifier = Verifier::new();
        verifier.trust(signer.certificate());
        let folder = files.path().join("repository");
        std::fs::create_dir(&folder).unwrap();
        let storage = Faulty::new(Arc::new(DirectoryStorage::open(&folder).unwrap()));
        let repository = Repository {
            name: "local".into(),
            storage: Arc::new(storage.clone()),
            verifier: Arc::new(verifier),
            signer: Some(Arc::new(signer)),
            memory: Some(files.path().join("catalog/local.head.json")),
            term: Arc::default(),
        };
        Self { files, storage, repository, now }
    }

    /// Signs `count` checkpoints, five minutes apart, up to now.
    async fn sign(&self, count: usize) {
        let mut previous = None;
        for number in 0..count {
            let taken = self.now - TimeDelta::minutes(5 * i64::try_from(count - number).unwrap());
            let size = i64::try_from(number).unwrap();
            let hash = (size > 0).then(|| Digest::of(&size.to_le_bytes()));
            let checkpoint = Checkpoint {
                format: FORMAT,
                chain: CHAIN.into(),
                occasion: if number % 12 == 0 { Occasion::Verified } else { Occasion::Routine },
                incarnation: 0,
                size,
                hash,
                partitions: Default::default(),
                origin: Origin::default(),
                schema: Digest::of(b"s"),
                profiles: None,
                configuration: Digest::of(b"c"),
                taken,
                previous,
            };
            previous = Some(Digest::of(&checkpoint.canonical().unwrap()));
            self.repository.put_checkpoint(&checkpoint, None, self.now).await.unwrap();
        }
    }

    /// What is read, in how many requests and how long.
    async fn read(&self, reading: Reading) -> (CheckpointHistory, usize, Duration) {
        for _ in 0..30_000 {
            self.storage.fault(Operation::Get, Fault::Waits(Duration::ZERO));
        }
        for _ in 0..2_000 {
            self.storage.fault(Operation::List, Fault::Waits(Duration::ZERO));
        }
        let (before, begun) = (self.storage.fired(), Instant::now());
        let history = self.repository.checkpoint_history(CHAIN, reading, self.now).await.unwrap();
        (history, self.storage.fired() - before, begun.elapsed())
    }

    fn forget(&self) {
        std::fs::remove_dir_all(self.files.path().join("catalog")).unwrap();
    }

    /// Files of checkpoints, oldest first.
    fn files(&self) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for day in std::fs::read_dir(self.files.path().join("repository/checkpoints/audit_logs")).unwrap() {
            let day = day.unwrap().path();
            if day.ends_with("expired") {
                continue;
            }
            found.extend(std::fs::read_dir(&day).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.retain(|path: &std::path::PathBuf| path.to_string_lossy().ends_with(".json"));
        found.sort();
        found
    }
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
    std::fs::remove_file(path.with_extension("json.sig")).unwrap();
}

async fn read_once(count: usize) {
    let shelf = Shelf::new();
    shelf.sign(count).await;
    let (first, all, took) = shelf.read(Reading::Recent).await;
    assert_eq!((first.marks.len(), first.faults.len()), (count, 0), "{:?}", first.faults.first());
    assert!(all >= 2 * count, "{all} requests");
    let (again, recent, took_again) = shelf.read(Reading::Recent).await;
    assert_eq!((&again.marks, again.newest, again.faults), (&first.marks, first.newest, vec![]));
    assert!(recent <= 10, "{recent} requests");
    let (thorough, some, took_thorough) = shelf.read(Reading::Thorough).await;
    assert_eq!((thorough.marks.len(), thorough.faults.len()), (count, 0));
    assert!(some <= 80 + count / 200, "{some} requests");
    crate::audit_stage::figure(&format!(
        "{count} checkpoints: {all} requests, {took:?} without memory; {recent}, {took_again:?} recent; {some}, {took_thorough:?} thorough"
    ));
    shelf.forget();
    let (anew, requests, _) = shelf.read(Reading::Recent).await;
    assert_eq!((anew.marks, requests), (first.marks, all), "the memory can be deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_are_read_once() {
    read_once(700).await;
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_long_ten_thousand_are_read_once() {
    read_once(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_before_and_is_gone_or_changed_is_missed() {
    let shelf = Shelf::new();
    shelf.sign(600).await;
    shelf.read(Reading::Recent).await;
    let files = shelf.files();
    let bytes = std::fs::read(&files[40]).unwrap();
    remove(&files[40]);
    let (history, ..) = shelf.read(Reading::Thorough).await;
    assert!(
        history.faults.iter().any(|fault| fault.contains("1 checkpoints that were here are gone")),
        "{:?}",
        history.faults
    );
    assert_eq!(history.marks.len(), 600, "what it said still counts");
    let (history, ..) = shelf.read(Reading::Recent).await;
    assert_eq!(history.marks.len(), 600);
    shelf.forget();
    let (history, ..) = shelf.read(Reading::Recent).await;
    assert!(history.faults.iter().any(|fault| fault.contains("does not follow")), "without memory, by its links");

    // Also the newest, whose loss no link shows.
    let shelf = Shelf::new();
    shelf.sign(600).await;
    let (before, ..) = shelf.read(Reading::Recent).await;
    remove(shelf.files().last().unwrap());
    for reading in [Reading::Recent, Reading::Thorough, Reading::Recent] {
        let (history, ..) = shelf.read(reading).await;
        assert!(history.faults.iter().any(|fault| fault.contains("are gone")), "{reading:?}: {:?}", history.faults);
        assert_eq!(history.marks, before.marks, "{reading:?}: what it said still counts");
    }

    // One that is put there later, between others, is not believed; nor is one that says something else.
    let shelf = Shelf::new();
    shelf.sign(30).await;
    shelf.read(Reading::Recent).await;
    std::fs::write(&shelf.files()[15], &bytes).unwrap();
    let (history, ..) = shelf.read(Reading::Thorough).await;
    assert!(!history.faults.is_empty(), "every one of so few is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn old_checkpoints_expire_by_a_signed_statement_and_only_by_one() {
    let shelf = Shelf::new();
    shelf.sign(900).await;
    shelf.read(Reading::Recent).await;
    let cut_off = shelf.now - TimeDelta::days(1);
    assert_eq!(shelf.repository.checkpoints_before(CHAIN, cut_off).await.unwrap(), 900 - 288);
    assert_eq!(shelf.repository.expire_checkpoints(CHAIN, cut_off, shelf.now).await.unwrap(), 900 - 288);
    assert_eq!(shelf.files().len(), 288);
    for _ in 0..2 {
        for reading in [Reading::Recent, Reading::Thorough] {
            let (history, ..) = shelf.read(reading).await;
            assert_eq!((history.marks.len(), history.faults.len()), (288, 0), "{:?}", history.faults);
        }
        shelf.forget();
    }
    assert_eq!(shelf.repository.expire_checkpoints(CHAIN, cut_off, shelf.now).await.unwrap(), 0);
    // The newest stays whatever is asked for.
    let later = shelf.now + TimeDelta::milliseconds(1);
    shelf.repository.expire_checkpoints(CHAIN, shelf.now + TimeDelta::days(9), later).await.unwrap();
    assert_eq!(shelf.files().len(), 1);
    let (history, ..) = shelf.read(Reading::Thorough).await;
    assert_eq!((history.marks.len(), history.faults.len()), (1, 0), "{:?}", history.faults);

    // The same without the statement is a loss.
    let shelf = Shelf::new();
    shelf.sign(30).await;
    shelf.files().iter().take(10).for_each(|path| remove(path));
    let (history, ..) = shelf.read(Reading::Recent).await;
    assert!(history.faults.iter().any(|fault| fault.contains("does not follow")), "{:?}", history.faults);
    let refused = shelf.repository.expire_checkpoints(CHAIN, shelf.now - TimeDelta::minutes(20), shelf.now).await;
    assert!(refused.is_err(), "nothing is deleted of a history that cannot be believed");
    assert!(shelf.storage.place().starts_with("file:"));
}
