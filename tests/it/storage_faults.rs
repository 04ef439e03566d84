//! Faults of S3 and the network, by their numbers. The server is real; the fault is answered in front of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use bytes::Bytes;
use chrono::{NaiveDateTime, TimeDelta, Utc};
use dbagent::model::digest::Digest;
use dbagent::storage::{PutOptions, Retrier, Retrying, S3Settings, S3Storage, Storage, StorageErrorKind, Upload};

use crate::stage::objects::{key, list, noise, put, read, upload};
use crate::stage::s3::{ACCESS_KEY, S3Server, SECRET_KEY};
use crate::stage::s3_fault::{Action, Rule};
use crate::stage::s3_storage::{bare, impatient, open};

/// Three parts of the smallest size.
const LARGE: usize = 12 * 1024 * 1024;

fn answer(status: u16, code: &'static str) -> Action {
    Action::Answer(status, code, vec![])
}

async fn upload_large(storage: &dyn Storage, name: &str) -> Result<Bytes, dbagent::storage::StorageError> {
    let bytes = noise(1, LARGE);
    upload(storage, name, &bytes, 1 << 20, &PutOptions::default()).await.map(|_| bytes)
}

async fn is_clean(storage: &dyn Storage) -> bool {
    storage.unfinished().await.unwrap().is_empty()
}

#[tokio::test]
async fn f26_bursts_of_busy_answers_are_waited_out_for_every_request() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let busy = [(500, "InternalError"), (502, ""), (503, "SlowDown"), (429, "")];
    let requests = [
        ("PUT", "/r/a"),
        ("POST", "?uploads"),
        ("PUT", "partNumber=2"),
        ("POST", "uploadId="),
        ("GET", "/r/b"),
        ("HEAD", "/r/b"),
        ("GET", "list-type=2"),
        ("DELETE", "/r/a"),
        ("GET", "?uploads"),
    ];
    for (method, target) in requests {
        busy.iter().for_each(|(status, code)| server.fault(Rule::once(method, target, answer(*status, code))));
    }
    put(&storage, "a", b"small").await.unwrap();
    let bytes = upload_large(&storage, "b").await.unwrap();
    assert!(read(&storage, "b", None).await.unwrap() == bytes);
    assert_eq!(storage.head(&key("b")).await.unwrap().size, LARGE as u64);
    assert_eq!(list(&storage, "").await.0, ["a", "b"]);
    storage.delete(&key("a"), None).await.unwrap();
    assert!(is_clean(&storage).await);
    assert_eq!(server.fired(), busy.len() * requests.len());
}

#[tokio::test]
async fn f26_a_store_that_stays_busy_is_a_clean_failure() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    server.fault(Rule::once("PUT", "partNumber=2", answer(503, "SlowDown")).times(usize::MAX));
    let error = upload_large(&storage, "a").await.unwrap_err();
    assert_eq!((error.kind, server.fired()), (StorageErrorKind::Transient, 8));
    assert!(error.message.contains("SlowDown") && error.message.contains("part 2"), "{error}");
    assert!(is_clean(&storage).await && storage.head(&key("a")).await.unwrap_err().is_missing());
}

#[tokio::test]
async fn f26_the_pause_that_the_store_asks_for_is_kept() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let busy = Action::Answer(503, "SlowDown", vec![("retry-after", "1".into())]);
    server.fault(Rule::once("PUT", "/a", busy));
    let begun = Instant::now();
    put(&storage, "a", b"x").await.unwrap();
    assert_eq!(server.fired(), 1);
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn f27_a_completion_answered_200_with_an_error_is_no_success() {
    for carried_out in [true, false] {
        let server = S3Server::start();
        let storage = server.storage("r").await;
        let action = match carried_out {
            true => Action::CarryOutAndAnswer(200, "InternalError"),
            false => answer(200, "InternalError"),
        };
        server.fault(Rule::once("POST", "uploadId=", action));
        let bytes = upload_large(&storage, "a").await.unwrap();
        assert_eq!(server.fired(), 1);
        assert!(server.bytes("r/a").unwrap() == bytes && is_clean(&storage).await);
    }
}

#[tokio::test]
async fn f27_a_completion_that_is_never_carried_out_is_an_error() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    server.fault(Rule::once("POST", "uploadId=", answer(200, "InternalError")).times(usize::MAX));
    let error = upload_large(&storage, "a").await.unwrap_err();
    assert_eq!((error.kind, server.fired()), (StorageErrorKind::Transient, 8));
    assert!(server.bytes("r/a").is_none() && is_clean(&storage).await);
}

#[tokio::test]
async fn f28_a_lost_answer_is_resolved_to_our_own_object() {
    for (target, times) in [("/r/small", 1), ("/r/small", usize::MAX), ("/r/single", 1), ("uploadId=", 1)] {
        let server = S3Server::start();
        let storage = server.storage("r").await;
        let method = if target.starts_with('/') { "PUT" } else { "POST" };
        server.fault(Rule::once(method, target, Action::LoseAnswer).times(times));
        put(&storage, "small", b"small").await.unwrap();
        upload(&storage, "single", &noise(2, 100), 10, &PutOptions::default()).await.unwrap();
        upload_large(&storage, "large").await.unwrap();
        assert!(server.fired() >= 1);
        assert_eq!(list(&storage, "").await.0, ["large", "single", "small"]);
        assert!(is_clean(&storage).await);
    }
}

#[tokio::test]
async fn f28_another_writers_object_is_never_taken_for_ours() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    put(&storage, "a", b"theirs").await.unwrap();
    server.fault(Rule::once("PUT", "/r/a", Action::Close));
    assert!(put(&storage, "a", b"theirs").await.unwrap_err().is_exists());
    // It comes between the look before the completion and the completion, whose answer is lost.
    server.fault(Rule::once("HEAD", "/r/a", answer(404, "")));
    server.fault(Rule::once("POST", "uploadId=", Action::Close));
    assert!(upload_large(&storage, "a").await.unwrap_err().is_exists());
    assert_eq!((server.fired(), server.bytes("r/a").unwrap().as_slice()), (3, b"theirs".as_slice()));
    assert!(is_clean(&storage).await);
}

#[tokio::test]
async fn f29_a_request_that_is_never_answered_is_given_up_and_tried_again() {
    let server = S3Server::start();
    let quick = Duration::from_millis(400);
    let storage = open(S3Settings { answer_timeout: quick, least_rate: 1 << 30, ..server.settings("r") }).await;
    for (method, target) in [("PUT", "/r/a"), ("HEAD", "/r/a"), ("GET", "/r/a"), ("PUT", "partNumber=1")] {
        server.fault(Rule::once(method, target, Action::Hang));
    }
    put(&storage, "a", b"x").await.unwrap();
    storage.head(&key("a")).await.unwrap();
    assert_eq!(read(&storage, "a", None).await.unwrap(), b"x");
    upload_large(&storage, "b").await.unwrap();
    assert_eq!(server.fired(), 4);
}

#[tokio::test]
async fn f29_a_slow_answer_within_its_time_is_waited_for() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    server.fault(Rule::once("PUT", "/r/a", Action::Delay(Duration::from_millis(300))));
    put(&storage, "a", b"x").await.unwrap();
    assert_eq!((server.fired(), server.requests().len()), (1, 1));
}

#[tokio::test]
async fn f29_a_download_that_stalls_goes_on_elsewhere() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let bytes = upload_large(&storage, "a").await.unwrap();
    server.fault(Rule::once("GET", "/r/a", Action::StallAt(5_000_000)));
    server.fault(Rule::once("GET", "/r/a", Action::StallAt(0)));
    assert!(read(&storage, "a", None).await.unwrap() == bytes);
    assert_eq!(server.fired(), 2);
}

#[tokio::test]
async fn f29_an_address_where_nobody_listens_is_a_clear_failure() {
    let server = S3Server::start();
    let settings = server.settings("r");
    drop(server);
    let error = put(&open(settings).await, "a", b"x").await.unwrap_err();
    assert!(error.is_transient() && error.message.contains("efused"), "{error}");
}

#[tokio::test]
async fn f30_a_download_cut_anywhere_goes_on_where_it_was_cut() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let bytes = noise(3, 200_000);
    put(&storage, "a", &bytes).await.unwrap();
    let mut cuts = 0;
    for n in 0..60 {
        let at = (n * 7919 * 31) % 199_000;
        server.fault(Rule::once("GET", "/r/a", Action::CutAt(at)));
        cuts += 1;
        let range = (n % 3 == 0).then_some(500..199_999);
        let expected = if n % 3 == 0 { &bytes[500..199_999] } else { &bytes[..] };
        assert!(read(&storage, "a", range).await.unwrap() == expected, "cut at {at}");
    }
    assert_eq!(server.fired(), cuts);
}

#[tokio::test]
async fn f30_a_download_without_retries_ends_with_an_error() {
    let server = S3Server::start();
    let storage = bare(server.settings("r"), &Retrier::new(impatient())).await;
    put(&storage, "a", &noise(3, 200_000)).await.unwrap();
    server.fault(Rule::once("GET", "/r/a", Action::CutAt(100_000)));
    assert!(read(&storage, "a", None).await.unwrap_err().is_transient());
    assert_eq!(server.fired(), 1);
}

#[tokio::test]
async fn f31_wrong_bytes_are_told_by_the_stores_own_digest_and_right_ones_come_next() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    put(&storage, "a", &noise(4, 50_000)).await.unwrap();
    server.fault(Rule::once("GET", "/r/a", Action::FlipByte(40_000)));
    let digest = storage.head(&key("a")).await.unwrap().digest.unwrap();
    let (first, second) = (read(&storage, "a", None).await.unwrap(), read(&storage, "a", None).await.unwrap());
    assert_eq!(server.fired(), 1);
    assert!(Digest::of(&first) != digest && Digest::of(&second) == digest);
    server.tamper("r/a", b"for good");
    assert!(Digest::of(&read(&storage, "a", None).await.unwrap()) != digest);
}

#[tokio::test]
async fn f32_a_store_that_has_other_bytes_is_caught_and_its_object_withdrawn() {
    let wrong = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    let lie = Action::Header("x-amz-checksum-sha256", wrong);
    for (method, target, skip, action) in [
        ("PUT", "/r/small", 0, lie.clone()),
        ("PUT", "partNumber=2", 0, lie),
        ("HEAD", "/r/large", 1, Action::Header("content-length", "5")),
    ] {
        let server = S3Server::start();
        let storage = server.storage("r").await;
        server.fault(Rule::once(method, target, action).after(skip));
        let answers = [put(&storage, "small", b"x").await.err(), upload_large(&storage, "large").await.err()];
        let kinds: Vec<_> = answers.iter().flatten().map(|error| error.kind).collect();
        assert_eq!((kinds, server.fired()), (vec![StorageErrorKind::Corrupt], 1), "{target}: {answers:?}");
        assert_eq!(list(&storage, "").await.0.len(), 1, "{target}");
        assert!(is_clean(&storage).await);
    }
}

#[tokio::test]
async fn f32_every_write_carries_its_checksum() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    put(&storage, "a", b"x").await.unwrap();
    upload_large(&storage, "b").await.unwrap();
    let writes: Vec<_> = server.requests().into_iter().filter(|request| request.method == "PUT").collect();
    assert_eq!(writes.len(), 4);
    assert!(writes.iter().all(|request| request.headers.contains_key("x-amz-checksum-sha256")));
}

#[tokio::test]
async fn f33_an_upload_of_a_killed_process_is_found_and_ended() {
    let own_name = "storage_faults::f33_an_upload_of_a_killed_process_is_found_and_ended";
    if let Ok(endpoint) = std::env::var("DBAGENT_TEST_F33") {
        // The process to be killed: this very test, once more. It finds credentials and region by the SDK's chain.
        let settings = S3Settings { endpoint: Some(endpoint), path_style: true, ..S3Settings::new("backups", "r") };
        let settings = S3Settings { part_size: 5 << 20, ..settings };
        let storage = S3Storage::connect(settings, None, Retrier::new(impatient())).await.unwrap();
        let mut upload = storage.upload(&key("a"), &PutOptions::default()).await.unwrap();
        upload.write(noise(5, LARGE)).await.unwrap();
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    }
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", own_name])
        .envs(server.environment())
        .env("DBAGENT_TEST_F33", server.endpoint())
        .output();
    let status = child.await.unwrap().status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{status}");
    let left = storage.unfinished().await.unwrap();
    assert_eq!(left.iter().map(|upload| upload.key.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(Utc::now() - left[0].begun < TimeDelta::minutes(1));
    storage.abort(&left[0]).await.unwrap();
    assert!(is_clean(&storage).await && storage.head(&key("a")).await.unwrap_err().is_missing());
}

#[tokio::test]
async fn f34_parts_grow_so_that_a_stream_of_unknown_length_fits_and_an_endless_one_ends_clearly() {
    let server = S3Server::start();
    let storage = open(S3Settings { most_parts: 10, ..server.settings("r") }).await;
    let bytes = noise(6, 90 << 20);
    upload(&storage, "a", &bytes, 3 << 20, &PutOptions::default()).await.unwrap();
    let parts = server.requests().iter().filter(|request| request.target.contains("partNumber=")).count();
    assert!(parts <= 10 && server.bytes("r/a").unwrap() == bytes, "{parts} parts");

    let storage = open(S3Settings { most_parts: 2, ..server.settings("r") }).await;
    let error = upload(&storage, "b", &bytes, 3 << 20, &PutOptions::default()).await.unwrap_err();
    assert!(error.message.contains("more than 2 parts"), "{error}");
    assert!(is_clean(&storage).await && server.bytes("r/b").is_none());
}

#[tokio::test]
async fn f34_what_cannot_fit_is_refused_before_it_begins() {
    let server = S3Server::start();
    let options = PutOptions { expected_size: Some(100 << 40), ..PutOptions::default() };
    let refused = server.storage("r").await.upload(&key("a"), &options).await.map(|_: Box<dyn Upload>| ());
    assert!(refused.unwrap_err().message.contains("do not fit 10000 parts"));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn f35_a_conflict_is_begun_again_and_a_taken_key_is_told() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    for (method, target) in [("PUT", "/r/a"), ("POST", "uploadId=")] {
        server.fault(Rule::once(method, target, answer(409, "ConditionalRequestConflict")));
    }
    put(&storage, "a", b"x").await.unwrap();
    upload_large(&storage, "b").await.unwrap();
    assert_eq!(server.fired(), 2);
    for name in ["a", "b"] {
        assert!(put(&storage, name, b"x").await.unwrap_err().is_exists());
        assert!(upload_large(&storage, name).await.unwrap_err().is_exists());
    }
    assert!(is_clean(&storage).await);
    let writes = server.requests().into_iter().filter(|r| r.method == "PUT" && !r.target.contains("partNumber"));
    assert!(writes.into_iter().all(|request| request.headers["if-none-match"] == "*"));
}

/// Counts how often it is asked.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicUsize>);

impl ProvideCredentials for Counting {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        self.0.fetch_add(1, Ordering::Relaxed);
        future::ProvideCredentials::ready(Ok(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test")))
    }
}

async fn counted(server: &S3Server) -> (Retrying, Counting) {
    let (counting, retrier) = (Counting::default(), Retrier::new(impatient()));
    let given = Some(SharedCredentialsProvider::new(counting.clone()));
    let bare = S3Storage::connect(server.settings("r"), given, retrier.clone()).await.unwrap();
    (Retrying::new(Arc::new(bare), retrier), counting)
}

#[tokio::test]
async fn f36_credentials_that_expire_mid_upload_are_asked_for_anew() {
    let server = S3Server::start();
    let (storage, asked) = counted(&server).await;
    server.fault(Rule::once("PUT", "partNumber=2", answer(400, "ExpiredToken")));
    upload_large(&storage, "a").await.unwrap();
    assert_eq!((server.fired(), asked.0.load(Ordering::Relaxed)), (1, 2));
}

#[tokio::test]
async fn f36_expired_and_denied_differ_and_neither_is_asked_for_ever() {
    let server = S3Server::start();
    let (storage, asked) = counted(&server).await;
    server.fault(Rule::once("PUT", "/expired", answer(400, "ExpiredToken")).times(usize::MAX));
    server.fault(Rule::once("PUT", "/denied", answer(403, "AccessDenied")).times(usize::MAX));
    let expired = put(&storage, "expired", b"x").await.unwrap_err();
    assert_eq!((expired.kind, server.fired(), asked.0.load(Ordering::Relaxed)), (StorageErrorKind::Expired, 2, 2));
    let denied = put(&storage, "denied", b"x").await.unwrap_err();
    assert_eq!((denied.kind, server.fired()), (StorageErrorKind::Denied, 3));
    assert!(denied.message.contains("AccessDenied"), "{denied}");
}

#[tokio::test]
async fn f36_a_wrong_secret_is_denied() {
    let server = S3Server::start();
    let wrong = Credentials::new(ACCESS_KEY, "wrong", None, None, "test");
    let given = Some(SharedCredentialsProvider::new(wrong));
    let storage = S3Storage::connect(server.settings("r"), given, Retrier::new(impatient())).await.unwrap();
    let error = put(&storage, "a", b"x").await.unwrap_err();
    assert_eq!(error.kind, StorageErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn f37_a_wrong_clock_is_corrected_by_the_stores_date_once() {
    let server = S3Server::start();
    let storage = bare(server.settings("r"), &Retrier::new(impatient())).await;
    let ahead = Utc::now() + TimeDelta::hours(1);
    let date = ahead.format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let skewed = Action::Answer(403, "RequestTimeTooSkewed", vec![("date", date)]);
    server.fault(Rule::once("PUT", "/r/a", skewed.clone()));
    // The server itself goes by the real time and so refuses the corrected request: what counts is how it was signed.
    put(&storage, "a", b"x").await.unwrap_err();
    let signed: Vec<_> =
        server.requests().iter().map(|request| request.headers["x-amz-date"].to_str().unwrap().to_owned()).collect();
    assert_eq!((server.fired(), signed.len()), (1, 2));
    let second = NaiveDateTime::parse_from_str(&signed[1], "%Y%m%dT%H%M%SZ").unwrap().and_utc();
    assert!((second - ahead).abs() < TimeDelta::minutes(1), "{signed:?}");

    server.fault(Rule::once("PUT", "/r/b", skewed).times(usize::MAX));
    let error = put(&storage, "b", b"x").await.unwrap_err();
    assert!(error.message.contains("clock"), "{error}");
    assert_eq!(server.fired(), 3);
}

#[tokio::test]
async fn f37_a_probe_tells_how_far_the_clocks_differ() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let date = (Utc::now() - TimeDelta::minutes(10)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
    server.fault(Rule::once("HEAD", "/backups", Action::Answer(200, "", vec![("date", date)])));
    let offset = storage.probe().await.unwrap().clock_offset.unwrap();
    assert_eq!(server.fired(), 1);
    assert!((offset + TimeDelta::minutes(10)).abs() < TimeDelta::seconds(10), "{offset}");
}

#[tokio::test]
async fn f38_a_bucket_that_is_missing_or_elsewhere_is_named() {
    let server = S3Server::start();
    let missing = open(S3Settings { bucket: "nowhere".into(), ..server.settings("r") }).await;
    for error in [missing.probe().await.unwrap_err(), put(&missing, "a", b"x").await.unwrap_err()] {
        assert_eq!(error.kind, StorageErrorKind::Missing);
        assert!(error.message.contains("nowhere") && error.message.contains("no such bucket"), "{error}");
    }
    let storage = server.storage("r").await;
    let moved = |status| Action::Answer(status, "PermanentRedirect", vec![("x-amz-bucket-region", "us-west-2".into())]);
    server.fault(Rule::once("HEAD", "/backups", moved(301)));
    server.fault(Rule::once("PUT", "/backups", moved(400)));
    for error in [storage.probe().await.unwrap_err(), put(&storage, "a", b"x").await.unwrap_err()] {
        assert_eq!(error.kind, StorageErrorKind::Other);
        assert!(error.message.contains("us-west-2"), "{error}");
    }
    assert_eq!(server.fired(), 2);
}

#[tokio::test]
async fn f38_a_bucket_without_versions_and_lock_says_so() {
    let server = S3Server::start();
    let probe = server.storage("r").await.probe().await.unwrap();
    assert!(!probe.features.versions && !probe.features.object_lock && probe.features.conditional_put);
}

#[tokio::test]
async fn f40_names_that_are_no_keys_do_not_hide_those_that_are() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let foreign = [".hidden", "a\\b", "bell\u{7}", "new\nline", "sub/.x/y", "\u{1}"];
    foreign.iter().for_each(|name| server.plant(&format!("r/{name}")));
    server.plant("r-not-ours/x");
    put(&storage, "a", b"x").await.unwrap();
    let (keys, mut reported) = list(&storage, "").await;
    reported.sort();
    let mut expected = foreign.map(str::to_owned).to_vec();
    expected.sort();
    assert_eq!((keys, reported), (vec!["a".to_owned()], expected));
}

#[tokio::test]
async fn f43_an_archived_object_is_not_readable_and_says_why() {
    let server = S3Server::start();
    let storage = server.storage("r").await;
    let options = PutOptions { storage_class: Some("GLACIER".into()), ..PutOptions::default() };
    storage.put(&key("a"), Bytes::from_static(b"x"), &options).await.unwrap();
    upload(&storage, "b", &noise(7, LARGE), 1 << 20, &options).await.unwrap();
    for name in ["a", "b"] {
        let meta = storage.head(&key(name)).await.unwrap();
        assert_eq!((meta.readable, meta.storage_class.as_deref()), (false, Some("GLACIER")));
        let error = read(&storage, name, None).await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Archived);
        assert!(error.message.contains("thawed"), "{error}");
    }
    assert!(storage.list("", None).await.unwrap().objects.iter().all(|object| !object.readable));
}
