//! What every backend of `Storage` owes: one suite of plain functions over `&dyn Storage`, one test per backend.
//!
//! Each function works below a folder of its own, so that all of them can share one repository.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dbagent::model::digest::Digest;
use dbagent::storage::{
    DirectoryStorage, Fault, Faulty, MemoryStorage, Operation, PutOptions, Retrier, Retrying, S3Settings, Storage,
    StorageErrorKind,
};
use futures_util::StreamExt;
use futures_util::future::join_all;

use crate::stage::objects::{complete, key, list, noise, put, read, upload};
use crate::stage::s3::S3Server;
use crate::stage::s3_storage::{impatient, open};

/// More than two parts of the smallest size S3 takes.
const LARGE: usize = 11 * 1024 * 1024 + 17;

/// Everything. A name that is no key, `foreign/.hidden`, and nothing else is in the place.
pub async fn conforms(storage: &dyn Storage) {
    behaves(storage).await;
    let names = page_names();
    let puts = names.iter().map(|name| put(storage, name, b"x"));
    let answers: Vec<_> = futures_util::stream::iter(puts).buffer_unordered(16).collect().await;
    answers.into_iter().for_each(|answer| drop(answer.unwrap()));
    listings_have_pages_in_key_order(storage).await;
}

/// Everything but long listings.
async fn behaves(storage: &dyn Storage) {
    a_name_that_is_no_key_is_reported_and_left_alone(storage).await;
    what_is_put_is_what_is_read(storage).await;
    a_key_is_written_once(storage).await;
    an_upload_is_invisible_until_it_is_committed(storage).await;
    an_upload_aborted_or_dropped_leaves_nothing(storage).await;
    an_upload_begun_by_the_dead_can_be_found_and_ended(storage).await;
    bytes_that_are_not_what_was_said_never_become_an_object(storage).await;
    a_large_object_in_odd_pieces_comes_back_whole(storage).await;
    ranges_are_exact(storage).await;
    an_empty_object_is_an_object(storage).await;
    what_is_missing_is_missing(storage).await;
    odd_keys_are_keys(storage).await;
    of_many_writers_of_one_key_exactly_one_wins(storage).await;
    of_many_uploads_to_one_key_one_is_there_whole(storage).await;
    folders_are_those_that_hold_something(storage).await;
    assert_eq!(storage.unfinished().await.unwrap(), [], "the suite left uploads behind");
    storage.probe().await.unwrap();
}

async fn a_name_that_is_no_key_is_reported_and_left_alone(storage: &dyn Storage) {
    put(storage, "foreign/known", b"1").await.unwrap();
    let (keys, foreign) = list(storage, "").await;
    assert_eq!((keys, foreign), (vec!["foreign/known".into()], vec!["foreign/.hidden".into()]));
}

async fn what_is_put_is_what_is_read(storage: &dyn Storage) {
    let stored = put(storage, "plain/a", b"some bytes").await.unwrap();
    assert_eq!(stored.size, 10);
    assert_eq!(read(storage, "plain/a", None).await.unwrap(), b"some bytes");
    let meta = storage.head(&key("plain/a")).await.unwrap();
    assert_eq!((meta.key, meta.size, meta.readable), (key("plain/a"), 10, true));
    assert!(meta.digest.is_none_or(|digest| digest == Digest::of(b"some bytes")));
    let age = chrono::Utc::now() - meta.modified;
    assert!(age.abs() < chrono::TimeDelta::minutes(5), "modified {age} ago");
}

async fn a_key_is_written_once(storage: &dyn Storage) {
    put(storage, "once/a", b"first").await.unwrap();
    let again = put(storage, "once/a", b"other").await.unwrap_err();
    let same = put(storage, "once/a", b"first").await.unwrap_err();
    let small = upload(storage, "once/a", &noise(1, 100), 10, &PutOptions::default()).await.unwrap_err();
    let large = upload(storage, "once/a", &noise(1, LARGE), 1 << 20, &PutOptions::default()).await.unwrap_err();
    for error in [again, same, small, large] {
        assert!(error.is_exists(), "{error:?}");
    }
    assert_eq!(read(storage, "once/a", None).await.unwrap(), b"first");
}

async fn an_upload_is_invisible_until_it_is_committed(storage: &dyn Storage) {
    let bytes = noise(2, LARGE);
    let mut upload = storage.upload(&key("atomic/a"), &PutOptions::default()).await.unwrap();
    for piece in bytes.chunks(1 << 20) {
        upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
        assert!(storage.head(&key("atomic/a")).await.unwrap_err().is_missing());
    }
    assert_eq!(list(storage, "atomic/").await, (vec![], vec![]));
    upload.commit(complete(&bytes), Digest::of(&bytes), bytes.len() as u64).await.unwrap();
    assert_eq!(storage.head(&key("atomic/a")).await.unwrap().size, LARGE as u64);
}

async fn an_upload_aborted_or_dropped_leaves_nothing(storage: &dyn Storage) {
    for (name, length) in [("ended/small", 10), ("ended/large", LARGE)] {
        for abort in [true, false] {
            let mut upload = storage.upload(&key(name), &PutOptions::default()).await.unwrap();
            upload.write(noise(3, length)).await.unwrap();
            if abort {
                upload.abort().await.unwrap();
            } else {
                drop(upload);
            }
            nothing_is_unfinished(storage).await;
            assert!(storage.head(&key(name)).await.unwrap_err().is_missing());
        }
    }
    assert_eq!(list(storage, "ended/").await, (vec![], vec![]));
}

/// A dropped upload ends itself in the background.
async fn nothing_is_unfinished(storage: &dyn Storage) {
    let mut left = storage.unfinished().await.unwrap();
    for _ in 0..100 {
        if !left.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            left = storage.unfinished().await.unwrap();
        }
    }
    assert_eq!(left, []);
}

async fn an_upload_begun_by_the_dead_can_be_found_and_ended(storage: &dyn Storage) {
    let mut upload = storage.upload(&key("dead/a"), &PutOptions::default()).await.unwrap();
    upload.write(noise(4, LARGE)).await.unwrap();
    // As by kill -9: nothing of it is run again.
    std::mem::forget(upload);
    let found = storage.unfinished().await.unwrap();
    assert_eq!(found.iter().map(|unfinished| unfinished.key.as_str()).collect::<Vec<_>>(), ["dead/a"]);
    for _ in 0..2 {
        storage.abort(&found[0]).await.unwrap();
    }
    assert_eq!(storage.unfinished().await.unwrap(), []);
    assert!(storage.head(&key("dead/a")).await.unwrap_err().is_missing());
}

async fn bytes_that_are_not_what_was_said_never_become_an_object(storage: &dyn Storage) {
    for (length, piece) in [(100, 100), (LARGE, 1 << 20)] {
        let bytes = noise(5, length);
        let wrong = [(Digest::of(b"other"), length as u64), (Digest::of(&bytes), length as u64 + 1)];
        for (digest, size) in wrong {
            let mut upload = storage.upload(&key("wrong/a"), &PutOptions::default()).await.unwrap();
            for piece in bytes.chunks(piece) {
                upload.write(Bytes::copy_from_slice(piece)).await.unwrap();
            }
            let error = upload.commit(complete(&bytes), digest, size).await.unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::Corrupt, "{error:?}");
            assert!(storage.head(&key("wrong/a")).await.unwrap_err().is_missing());
            nothing_is_unfinished(storage).await;
        }
    }
}

async fn a_large_object_in_odd_pieces_comes_back_whole(storage: &dyn Storage) {
    let bytes = noise(6, LARGE);
    for (name, piece) in [("large/tiny", 4099), ("large/even", 1 << 20), ("large/whole", LARGE)] {
        let options = PutOptions { expected_size: Some(LARGE as u64), ..PutOptions::default() };
        let stored = upload(storage, name, &bytes, piece, &options).await.unwrap();
        assert_eq!(stored.size, LARGE as u64);
        assert!(read(storage, name, None).await.unwrap() == bytes, "{name} differs");
    }
}

async fn ranges_are_exact(storage: &dyn Storage) {
    let bytes = noise(7, 3_000_000);
    upload(storage, "range/a", &bytes, 70_000, &PutOptions::default()).await.unwrap();
    for (start, end) in [(0, 1), (1, 2_999_999), (2_999_999, 3_000_000), (1_048_575, 1_048_577), (500, 500)] {
        let read = read(storage, "range/a", Some(start..end)).await.unwrap();
        assert!(read == bytes[start as usize..end as usize], "{start} to {end}");
    }
    for range in [2_999_999..3_000_001, 3_000_000..3_000_001, 9_000_000..9_000_001] {
        let error = read(storage, "range/a", Some(range.clone())).await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Other, "{range:?}: {error:?}");
    }
}

async fn an_empty_object_is_an_object(storage: &dyn Storage) {
    put(storage, "empty/put", b"").await.unwrap();
    upload(storage, "empty/upload", &Bytes::new(), 1, &PutOptions::default()).await.unwrap();
    for name in ["empty/put", "empty/upload"] {
        assert_eq!(storage.head(&key(name)).await.unwrap().size, 0);
        assert_eq!(read(storage, name, None).await.unwrap(), b"");
    }
}

async fn what_is_missing_is_missing(storage: &dyn Storage) {
    assert!(storage.head(&key("missing/a")).await.unwrap_err().is_missing());
    assert!(read(storage, "missing/a", None).await.unwrap_err().is_missing());
    assert!(read(storage, "missing/a", Some(5..5)).await.unwrap_err().is_missing());
    storage.delete(&key("missing/a"), None).await.unwrap();
    put(storage, "missing/b", b"1").await.unwrap();
    for _ in 0..2 {
        storage.delete(&key("missing/b"), None).await.unwrap();
        assert!(storage.head(&key("missing/b")).await.unwrap_err().is_missing());
    }
    assert_eq!(list(storage, "missing/").await, (vec![], vec![]));
    put(storage, "missing/b", b"2").await.unwrap();
    assert_eq!(read(storage, "missing/b", None).await.unwrap(), b"2");
}

async fn odd_keys_are_keys(storage: &dyn Storage) {
    let odd = [
        "odd/#hash",
        "odd/%41%2f",
        "odd/&<>\"'",
        "odd/+plus+",
        "odd/=:,;@$!*()",
        "odd/a b  c",
        "odd/e\u{301}",
        "odd/~tilde",
        "odd/é",
        "odd/日本語",
        "odd/🦀",
    ];
    for name in odd {
        put(storage, name, name.as_bytes()).await.unwrap();
        assert_eq!(read(storage, name, None).await.unwrap(), name.as_bytes());
    }
    let (keys, foreign) = list(storage, "odd/").await;
    assert_eq!((keys, foreign), (odd.iter().map(|name| name.to_string()).collect(), vec![]));
    for name in odd {
        storage.delete(&key(name), None).await.unwrap();
    }
    assert_eq!(list(storage, "odd/").await.0.len(), 0);
}

async fn of_many_writers_of_one_key_exactly_one_wins(storage: &dyn Storage) {
    let bodies: Vec<Bytes> = (0..6).map(|n| noise(100 + n, 1000)).collect();
    let puts = join_all(bodies.iter().map(|body| put(storage, "race/put", body))).await;
    let winners: Vec<usize> = (0..puts.len()).filter(|n| puts[*n].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{puts:?}");
    let mut losers = puts.iter().filter_map(|answer| answer.as_ref().err());
    assert!(losers.all(|error| error.is_exists()), "{puts:?}");
    assert!(read(storage, "race/put", None).await.unwrap() == bodies[winners[0]]);
}

/// Never a mixture, and no loser is told that it won once all are through. That not two are told so in a row is up to
/// the store: see `of_many_uploads_to_one_key_exactly_one_wins`.
async fn of_many_uploads_to_one_key_one_is_there_whole(storage: &dyn Storage) {
    let bodies: Vec<Bytes> = (0..3).map(|n| noise(200 + n, LARGE)).collect();
    let options = PutOptions::default();
    let answers = join_all(bodies.iter().map(|body| upload(storage, "race/upload", body, 1 << 20, &options))).await;
    assert!(answers.iter().filter_map(|answer| answer.as_ref().err()).all(|error| error.is_exists()), "{answers:?}");
    let there = read(storage, "race/upload", None).await.unwrap();
    let winner = bodies.iter().position(|body| *body == there).unwrap();
    assert!(answers[winner].is_ok(), "{answers:?}");
}

/// Where the store refuses a completion of a taken key by itself: all but radosgw 16.
async fn of_many_uploads_to_one_key_exactly_one_wins(storage: &dyn Storage) {
    let bodies: Vec<Bytes> = (0..3).map(|n| noise(300 + n, LARGE)).collect();
    let options = PutOptions::default();
    let answers = join_all(bodies.iter().map(|body| upload(storage, "won/upload", body, 1 << 20, &options))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1, "{answers:?}");
}

async fn folders_are_those_that_hold_something(storage: &dyn Storage) {
    let mut folders = storage.folders().await.unwrap();
    folders.sort();
    let expected = ["atomic", "empty", "foreign", "large", "missing", "once", "plain", "race", "range"];
    assert_eq!(folders, expected);
}

/// More keys than fit a page. "page/x-1" sorts before the folder "page/x/": a slash is just another byte.
fn page_names() -> Vec<String> {
    let mut names: Vec<String> = (0..1500).map(|n| format!("page/{:02}/{:04}", n % 40, n)).collect();
    names.extend(["page/x-1", "page/x/1", "page/x0"].map(str::to_owned));
    names.sort();
    names
}

/// After every one of [`page_names`] was written.
async fn listings_have_pages_in_key_order(storage: &dyn Storage) {
    let names = page_names();
    let first = storage.list("page/", None).await.unwrap();
    assert!(first.next.is_some() && first.objects.len() <= 1000);
    assert_eq!(list(storage, "page/").await, (names.clone(), vec![]));
    let begin_with = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).cloned().collect::<Vec<_>>();
    for prefix in ["page/0", "page/07/", "page/07/0007", "page/x", "page/x/", "nothing"] {
        assert_eq!(list(storage, prefix).await.0, begin_with(prefix), "{prefix}");
    }
}

#[tokio::test]
async fn memory_conforms() {
    let storage = MemoryStorage::new();
    storage.plant("foreign/.hidden", "x");
    conforms(&storage).await;
    of_many_uploads_to_one_key_exactly_one_wins(&storage).await;
}

#[tokio::test]
async fn a_directory_conforms() {
    // In memory: this is about behaviour, and syncs 1,500 files.
    let place = tempfile::tempdir_in(crate::stage::quick_place()).unwrap();
    std::fs::create_dir(place.path().join("foreign")).unwrap();
    std::fs::write(place.path().join("foreign/.hidden"), "x").unwrap();
    let storage = DirectoryStorage::open(place.path()).unwrap();
    conforms(&storage).await;
    of_many_uploads_to_one_key_exactly_one_wins(&storage).await;
}

#[tokio::test]
async fn an_s3_bucket_conforms() {
    let server = S3Server::start();
    server.plant("pre/fix/foreign/.hidden");
    let storage = server.storage("/pre/fix/").await;
    behaves(&storage).await;
    page_names().iter().for_each(|name| server.plant(&format!("pre/fix/{name}")));
    listings_have_pages_in_key_order(&storage).await;
    of_many_uploads_to_one_key_exactly_one_wins(&storage).await;
}

#[tokio::test]
async fn f34_an_s3_bucket_whose_parts_go_through_files_conforms() {
    let server = S3Server::start();
    let place = tempfile::tempdir().unwrap();
    let spill_directory = Some(place.path().to_owned());
    let settings = S3Settings { spill_directory, most_in_memory: 1 << 20, ..server.settings("") };
    server.plant("foreign/.hidden");
    behaves(&open(settings.clone()).await).await;
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0);
    // That they went through it: without it nothing large can be written.
    let gone = S3Settings { spill_directory: Some(place.path().join("gone")), ..settings };
    let storage = open(gone).await;
    put(&storage, "small", b"put whole").await.unwrap();
    let failed = upload(&storage, "large", &noise(5, LARGE), 1 << 20, &PutOptions::default()).await.unwrap_err();
    assert!(failed.to_string().contains("keep a part of the upload in"), "{failed}");
}

#[tokio::test]
async fn a_bucket_without_conditional_writes_conforms_but_for_races() {
    let server = S3Server::start();
    let settings = S3Settings { conditional_put: false, ..server.settings("") };
    let storage = open(settings).await;
    a_key_is_written_once(&storage).await;
    assert!(!server.requests().iter().any(|request| request.headers.contains_key("if-none-match")));
}

#[tokio::test]
async fn memory_with_faults_and_retries_conforms() {
    let memory = MemoryStorage::new();
    memory.plant("foreign/.hidden", "x");
    let faulty = Faulty::new(Arc::new(memory));
    let (transient, retrier) = (Fault::Fails(StorageErrorKind::Transient), Retrier::new(impatient()));
    for operation in [Operation::Head, Operation::Get, Operation::Put, Operation::Delete, Operation::List] {
        for _ in 0..4 {
            faulty.fault(operation, transient);
            faulty.fault(operation, Fault::Passes);
            faulty.fault(operation, Fault::Passes);
        }
    }
    (0..5).for_each(|n| faulty.fault(Operation::Get, Fault::CutsAt(n * 1000)));
    (0..5).for_each(|_| faulty.fault(Operation::Put, Fault::LosesAnswer));
    conforms(&Retrying::new(Arc::new(faulty.clone()), retrier)).await;
    assert_eq!(faulty.fired(), 5 * 4 + 5 + 5);
}
