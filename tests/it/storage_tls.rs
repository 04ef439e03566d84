//! F39: certificates of the store that are not to be trusted, and the bundle that makes one trusted.

use std::path::PathBuf;

use dbagent::storage::{PutOptions, Retrier, S3Settings, S3Storage, StorageErrorKind};
use tempfile::TempDir;

use crate::stage::objects::{noise, put, read, upload};
use crate::stage::s3::S3Server;
use crate::stage::s3_storage::{bare, credentials, impatient};
use crate::stage::tls::Tls;

const NAMES: [&str; 2] = ["localhost", "127.0.0.1"];

/// A server with `tls`, and a storage that trusts the bundle in `folder`, if there is one.
async fn opened(tls: Tls, bundle: Option<PathBuf>) -> (S3Server, S3Storage) {
    let server = S3Server::start_tls(tls);
    let settings = S3Settings { ca_bundle: bundle, ..server.settings("r") };
    let storage = bare(settings, &Retrier::new(impatient())).await;
    (server, storage)
}

fn bundle_of(tls: &Tls, folder: &TempDir) -> Option<PathBuf> {
    let path = folder.path().join("ca.pem");
    tls.write_bundle(&path);
    Some(path)
}

#[tokio::test]
async fn f39_a_store_of_a_private_authority_is_trusted_by_its_bundle() {
    let (folder, tls) = (TempDir::new().unwrap(), Tls::new(&NAMES, false));
    let bundle = bundle_of(&tls, &folder);
    let (server, storage) = opened(tls, bundle).await;
    put(&storage, "a", b"x").await.unwrap();
    let bytes = noise(1, 11 << 20);
    upload(&storage, "b", &bytes, 1 << 20, &PutOptions::default()).await.unwrap();
    assert!(read(&storage, "b", None).await.unwrap() == bytes);
    // Within TLS the bytes are not hashed once more for the signature; their own checksum goes along.
    let parts: Vec<_> = server.requests().into_iter().filter(|request| request.target.contains("partNumber")).collect();
    assert!(parts.iter().all(|part| part.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"));
    assert!(parts.iter().all(|part| part.headers.contains_key("x-amz-checksum-sha256")));
}

#[tokio::test]
async fn f39_certificates_that_are_not_to_be_trusted_are_refused_with_the_reason() {
    let folder = TempDir::new().unwrap();
    let (unknown, expired, other) =
        (Tls::new(&NAMES, false), Tls::new(&NAMES, true), Tls::new(&["other.example"], false));
    let strangers = bundle_of(&Tls::new(&NAMES, false), &folder);
    for (tls, reason) in [(unknown, "UnknownIssuer"), (expired, "expired"), (other, "not valid for name")] {
        let bundle = if reason == "UnknownIssuer" { strangers.clone() } else { bundle_of(&tls, &folder) };
        let (server, storage) = opened(tls, bundle).await;
        let error = put(&storage, "a", b"x").await.unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Denied, "{error}");
        assert!(error.message.contains("certificate") && error.message.contains(reason), "{reason}: {error}");
        assert_eq!(server.requests().len(), 0);
    }
}

#[tokio::test]
async fn f39_without_a_bundle_only_the_systems_authorities_count() {
    let (_server, storage) = opened(Tls::new(&NAMES, false), None).await;
    let error = put(&storage, "a", b"x").await.unwrap_err();
    assert!(error.kind == StorageErrorKind::Denied && error.message.contains("certificate"), "{error}");
}

#[tokio::test]
async fn f39_a_bundle_that_cannot_be_used_is_named() {
    let server = S3Server::start();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("ca.pem");
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(&path, content).unwrap();
        }
        let settings = S3Settings { ca_bundle: Some(path.clone()), ..server.settings("r") };
        let error = S3Storage::connect(settings, Some(credentials()), Retrier::new(impatient())).await.unwrap_err();
        assert!(error.message.contains(&path.display().to_string()), "{error}");
    }
}
