//! The real S3 servers of the full test run, one test each: the whole conformance suite and what only they can do.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{BucketVersioningStatus, VersioningConfiguration};
use bytes::Bytes;
use dbagent::storage::{ObjectLock, PutOptions, S3Settings, Sse, Storage, StorageErrorKind, Thaw};

use crate::stage::moto::Moto;
use crate::stage::objects::{key, noise, put, read, upload};
use crate::stage::radosgw::{KMS_KEY, RadosGateway};
use crate::stage::s3_storage::{open, plain_client};
use crate::storage_conformance::conforms;

fn settings(endpoint: &str, bucket: &str) -> S3Settings {
    S3Settings {
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint.into()),
        path_style: true,
        part_size: 5 << 20,
        ..S3Settings::new(bucket, "pre")
    }
}

/// The whole suite in a fresh bucket.
async fn conforms_in_bucket(endpoint: &str) {
    let client = plain_client(endpoint);
    client.create_bucket().bucket("plain").send().await.unwrap();
    let planted = client.put_object().bucket("plain").key("pre/foreign/.hidden").body(ByteStream::from_static(b"x"));
    planted.send().await.unwrap();
    conforms(&open(settings(endpoint, "plain")).await).await;
    // A part that goes through a file is sent by other means.
    let place = tempfile::tempdir().unwrap();
    let spilling = S3Settings {
        spill_directory: Some(place.path().to_owned()),
        most_in_memory: 1 << 20,
        ..settings(endpoint, "plain")
    };
    let (storage, large) = (open(spilling).await, noise(9, 12 << 20));
    upload(&storage, "spilled", &large, 1 << 20, &PutOptions::default()).await.unwrap();
    assert_eq!(read(&storage, "spilled", None).await.unwrap(), large);
}

#[tokio::test]
async fn radosgw_conforms_and_keeps_versions_locks_and_keys() {
    let gateway = RadosGateway::start();
    let endpoint = gateway.endpoint();
    conforms_in_bucket(&endpoint).await;
    versions_are_kept_and_read_by_their_ids(&endpoint).await;
    a_locked_object_cannot_be_deleted(&endpoint).await;
    objects_are_encrypted_with_the_key_that_was_named(&endpoint).await;
}

async fn versions_are_kept_and_read_by_their_ids(endpoint: &str) {
    let client = plain_client(endpoint);
    client.create_bucket().bucket("versions").send().await.unwrap();
    let storage = open(settings(endpoint, "versions")).await;
    assert!(!storage.probe().await.unwrap().features.versions);
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket("versions").versioning_configuration(enabled).send().await.unwrap();
    assert!(storage.probe().await.unwrap().features.versions);

    let first = put(&storage, "a", b"first").await.unwrap().version.unwrap();
    // Somebody shadows it, as only an unconditional write can.
    client.put_object().bucket("versions").key("pre/a").body(ByteStream::from_static(b"other")).send().await.unwrap();
    assert_eq!(read(&storage, "a", None).await.unwrap(), b"other");
    let mut download = storage.get(&key("a"), Some(&first), None).await.unwrap();
    assert_eq!(download.next().await.unwrap().unwrap(), "first");

    let bytes = noise(1, 11 << 20);
    let large = upload(&storage, "large", &bytes, 1 << 20, &PutOptions::default()).await.unwrap();
    let version = large.version.unwrap();
    storage.delete(&key("large"), None).await.unwrap();
    assert!(storage.head(&key("large")).await.unwrap_err().is_missing());
    assert_eq!(storage.get(&key("large"), Some(&version), None).await.unwrap().size(), 11 << 20);
    storage.delete(&key("large"), Some(&version)).await.unwrap();
    assert!(storage.get(&key("large"), Some(&version), None).await.is_err_and(|error| error.is_missing()));
}

async fn a_locked_object_cannot_be_deleted(endpoint: &str) {
    let client = plain_client(endpoint);
    client.create_bucket().bucket("locked").object_lock_enabled_for_bucket(true).send().await.unwrap();
    let lock = Some(ObjectLock { compliance: true, days: Some(1) });
    let storage = open(S3Settings { lock, ..settings(endpoint, "locked") }).await;
    assert!(storage.probe().await.unwrap().features.object_lock);
    let small = put(&storage, "small", b"x").await.unwrap();
    let large = upload(&storage, "large", &noise(1, 11 << 20), 1 << 20, &PutOptions::default()).await.unwrap();
    for (name, stored) in [("small", small), ("large", large)] {
        let answer = storage.delete(&key(name), stored.version.as_deref()).await;
        assert!(answer.as_ref().is_err_and(|error| error.kind == StorageErrorKind::Denied), "{name}: {answer:?}");
    }
}

async fn objects_are_encrypted_with_the_key_that_was_named(endpoint: &str) {
    let client = plain_client(endpoint);
    client.create_bucket().bucket("secret").send().await.unwrap();
    let sse = Some(Sse::Kms { key_id: Some(KMS_KEY.into()) });
    let storage = open(S3Settings { sse, ..settings(endpoint, "secret") }).await;
    put(&storage, "small", b"x").await.unwrap();
    let bytes = noise(1, 11 << 20);
    upload(&storage, "large", &bytes, 1 << 20, &PutOptions::default()).await.unwrap();
    assert!(read(&storage, "large", None).await.unwrap() == bytes);
    for name in ["pre/small", "pre/large"] {
        let head = client.head_object().bucket("secret").key(name).send().await.unwrap();
        assert_eq!(head.ssekms_key_id(), Some(KMS_KEY), "{name}");
    }
}

#[tokio::test]
async fn moto_conforms_and_thaws_what_is_archived() {
    let moto = Moto::start();
    let endpoint = moto.endpoint();
    conforms_in_bucket(&endpoint).await;
    f43_an_archived_object_is_refused_until_it_is_thawed(&endpoint).await;
    a_link_reads_one_object_without_a_login(&endpoint).await;
}

async fn f43_an_archived_object_is_refused_until_it_is_thawed(endpoint: &str) {
    let storage = open(settings(endpoint, "plain")).await;
    let options = PutOptions { storage_class: Some("DEEP_ARCHIVE".into()), ..PutOptions::default() };
    storage.put(&key("cold/a"), Bytes::from_static(b"cold"), &options).await.unwrap();
    assert!(!storage.head(&key("cold/a")).await.unwrap().readable);
    assert_eq!(read(&storage, "cold/a", None).await.unwrap_err().kind, StorageErrorKind::Archived);
    let thaw = storage.thaw(&key("cold/a"), None, 3).await.unwrap();
    assert_eq!(thaw, Thaw::Underway { expected: Duration::from_secs(12 * 3600) });
    // This store takes no time to thaw.
    assert_eq!(storage.thaw(&key("cold/a"), None, 3).await.unwrap(), Thaw::Readable);
    assert_eq!(read(&storage, "cold/a", None).await.unwrap(), b"cold");
}

async fn a_link_reads_one_object_without_a_login(endpoint: &str) {
    let storage = open(settings(endpoint, "plain")).await;
    put(&storage, "linked", b"by link").await.unwrap();
    let link = storage.link(&key("linked"), None, Duration::from_secs(60)).await.unwrap();
    assert_eq!(link.lasts, Duration::from_secs(60));
    let output = std::process::Command::new("curl").args(["-sf", &link.url]).output().unwrap();
    assert_eq!(output.stdout, b"by link");
    assert!(!format!("{link:?}").contains("Signature"));
}
