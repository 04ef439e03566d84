//! One bucket: every request to it goes through [`Bucket::send`], once, with its settings applied.
//!
//! `send` repeats a request only where the cause was here and is mended by then: expired credentials (asked for anew)
//! and a wrong clock (the SDK has learned the difference), each at most once.

use std::future::Future;

use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::{ByteStream, DateTime as S3DateTime};
use aws_sdk_s3::types::{
    ChecksumAlgorithm, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode, ServerSideEncryption, StorageClass,
};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::storage::s3::credentials::{Renewable, now};
use crate::storage::s3::settings::{S3Settings, Sse};
use crate::storage::s3::{answer, connect};
use crate::storage::{ObjectMeta, PutOptions, Retrier, StorageError, StorageErrorKind, Stored};

/// Name of the metadata entry that holds [`PutOptions::nonce`].
pub(super) const NONCE: &str = "dbagent-nonce";

#[derive(Debug)]
pub(super) struct Bucket {
    pub(super) client: Client,
    pub(super) settings: S3Settings,
    pub(super) credentials: Renewable,
    pub(super) retrier: Retrier,
}

/// What every write asks for besides its bytes.
pub(super) struct Wishes {
    pub(super) class: Option<StorageClass>,
    pub(super) sse: Option<ServerSideEncryption>,
    pub(super) kms_key: Option<String>,
    pub(super) lock: Option<ObjectLockMode>,
    pub(super) locked_until: Option<S3DateTime>,
}

impl Bucket {
    pub(super) async fn connect(
        settings: S3Settings,
        given: Option<SharedCredentialsProvider>,
        retrier: Retrier,
    ) -> Result<Self, StorageError> {
        let (client, credentials) = connect::connect(&settings, given).await?;
        Ok(Self { client, settings, credentials, retrier })
    }

    /// The key in the bucket.
    pub(super) fn key(&self, key: &str) -> String {
        if self.settings.prefix.is_empty() { key.to_owned() } else { format!("{}/{key}", self.settings.prefix) }
    }

    /// The key below our prefix.
    pub(super) fn below<'a>(&self, key: &'a str) -> &'a str {
        let below = key.strip_prefix(self.settings.prefix.as_str()).unwrap_or(key);
        if self.settings.prefix.is_empty() { below } else { below.strip_prefix('/').unwrap_or(below) }
    }

    /// "`verb` s3://bucket/key", for messages.
    pub(super) fn what(&self, verb: &str, key: &str) -> String {
        format!("{verb} s3://{}/{}", self.settings.bucket, self.key(key))
    }

    /// Sends what `request` makes, which carries `bytes` bytes.
    pub(super) async fn send<T, E, F>(&self, what: &str, bytes: u64, request: impl Fn() -> F) -> Result<T, StorageError>
    where
        E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
        F: Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    {
        let patience = self.settings.patience(bytes);
        let (mut renewed, mut reset) = (false, false);
        loop {
            let answer = tokio::time::timeout(patience, request()).await.map_err(|_| {
                let message = format!("{what}: no answer within {} s", patience.as_secs_f32());
                StorageError::new(StorageErrorKind::Transient, message)
            })?;
            let error = match answer {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let told = answer::error_of(what, &error);
            if told.kind == StorageErrorKind::Expired && !renewed {
                self.credentials.forget();
                renewed = true;
            } else if answer::is_skew(&error) && !reset {
                reset = true;
            } else {
                return Err(told);
            }
        }
    }

    pub(super) fn wishes(&self, options: &PutOptions) -> Wishes {
        let kms_key = match &self.settings.sse {
            Some(Sse::Kms { key_id }) => key_id.clone(),
            _ => None,
        };
        let sse = self.settings.sse.as_ref().map(|sse| match sse {
            Sse::Aes256 => ServerSideEncryption::Aes256,
            Sse::Kms { .. } => ServerSideEncryption::AwsKms,
        });
        let days = self.settings.lock.and_then(|lock| lock.days);
        let by_days = days.map(|days| DateTime::<Utc>::from(now()) + TimeDelta::days(i64::from(days)));
        let until = options.locked_until.or(by_days);
        let compliance = self.settings.lock.is_some_and(|lock| lock.compliance);
        let mode = if compliance { ObjectLockMode::Compliance } else { ObjectLockMode::Governance };
        Wishes {
            class: options.storage_class.as_deref().map(StorageClass::from),
            sse,
            kms_key,
            lock: until.map(|_| mode),
            locked_until: until.map(|until| S3DateTime::from_secs(until.timestamp())),
        }
    }

    /// The lock that `options` ask for.
    pub(super) fn retention(&self, options: &PutOptions) -> Option<ObjectLockRetention> {
        let wishes = self.wishes(options);
        let mode = wishes.lock.map(|mode| ObjectLockRetentionMode::from(mode.as_str()))?;
        Some(ObjectLockRetention::builder().mode(mode).set_retain_until_date(wishes.locked_until).build())
    }

    /// Puts an object in one request.
    pub(super) async fn put(
        &self,
        key: &ObjectKey,
        body: &Bytes,
        options: &PutOptions,
    ) -> Result<Stored, StorageError> {
        if !self.settings.conditional_put {
            self.look_first(key).await?;
        }
        let what = self.what("write", key.as_str());
        let ours = Digest::of(body);
        let sum = checksum(&ours);
        let output = self.send(&what, body.len() as u64, || {
            let wishes = self.wishes(options);
            let request = self
                .client
                .put_object()
                .bucket(&self.settings.bucket)
                .key(self.key(key.as_str()))
                .set_if_none_match(self.settings.conditional_put.then(|| "*".to_owned()))
                // Named as well as sent: a store that locks takes no body without (API reference, PutObject).
                .checksum_algorithm(ChecksumAlgorithm::Sha256)
                .checksum_sha256(&sum)
                .set_metadata(options.nonce.clone().map(|nonce| [(NONCE.to_owned(), nonce)].into()))
                .set_storage_class(wishes.class)
                .set_server_side_encryption(wishes.sse)
                .set_ssekms_key_id(wishes.kms_key)
                .set_object_lock_mode(wishes.lock)
                .set_object_lock_retain_until_date(wishes.locked_until)
                .body(ByteStream::from(body.clone()))
                .customize();
            if self.is_encrypted() { request.disable_payload_signing().send() } else { request.send() }
        });
        let output = output.await?;
        if output.checksum_sha256().is_some_and(|theirs| theirs != sum) {
            return Err(self.withdraw(key, options, "the store has computed another checksum").await);
        }
        let digest = output.checksum_sha256().map(|_| ours);
        Ok(Stored { version: version(output.version_id), size: body.len() as u64, digest, read_back: false })
    }

    /// Whether TLS protects the bytes on the way: hashing them once more for the signature is then needless, as they
    /// carry their own SHA-256.
    pub(super) fn is_encrypted(&self) -> bool {
        self.settings.endpoint.as_ref().is_none_or(|endpoint| endpoint.starts_with("https:"))
    }

    /// Looks whether the key is free, where the store does not refuse a taken one itself.
    pub(super) async fn look_first(&self, key: &ObjectKey) -> Result<(), StorageError> {
        match self.head(key).await {
            Ok(_) => {
                let message = format!("{}: the key is taken", self.what("write", key.as_str()));
                Err(StorageError::new(StorageErrorKind::Exists, message))
            }
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let what = self.what("look at", key.as_str());
        let output = self.send(&what, 0, || {
            let request = self.client.head_object().bucket(&self.settings.bucket).key(self.key(key.as_str()));
            request.checksum_mode(aws_sdk_s3::types::ChecksumMode::Enabled).send()
        });
        let output = output.await?;
        let class = output.storage_class().map(StorageClass::as_str);
        let thawed = output.restore().is_some_and(|restore| restore.contains("ongoing-request=\"false\""));
        Ok(ObjectMeta {
            key: key.clone(),
            size: size(output.content_length()),
            modified: instant(output.last_modified()),
            version: version(output.version_id.clone()),
            storage_class: class.filter(|class| *class != "STANDARD").map(str::to_owned),
            readable: output.archive_status().is_none() && (!class.is_some_and(is_archive) || thawed),
            digest: output.checksum_sha256().and_then(digest),
            nonce: output.metadata().and_then(|metadata| metadata.get(NONCE).cloned()),
        })
    }

    /// Deletes again what has just been written and is not what it must be. The error to tell.
    pub(super) async fn withdraw(&self, key: &ObjectKey, options: &PutOptions, why: &str) -> StorageError {
        let corrupt = |more: &str| {
            let message = format!("{}: {why}{more}", self.what("write", key.as_str()));
            StorageError::new(StorageErrorKind::Corrupt, message)
        };
        // Only what carries our nonce: anything else is another writer's.
        let removed = match self.head(key).await {
            Ok(meta) if meta.nonce.is_some() && meta.nonce == options.nonce => {
                self.delete(key, meta.version.as_deref()).await
            }
            Ok(_) => Ok(()),
            Err(error) if error.is_missing() => Ok(()),
            Err(error) => Err(error),
        };
        match removed {
            Ok(()) => corrupt(""),
            Err(error) => corrupt("; it could not be removed again").because(error),
        }
    }

    pub(super) async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StorageError> {
        let what = self.what("delete", key.as_str());
        let answer = self.send(&what, 0, || {
            let request = self.client.delete_object().bucket(&self.settings.bucket).key(self.key(key.as_str()));
            request.set_version_id(version.map(str::to_owned)).send()
        });
        answer.await.map(drop)
    }
}

/// A digest as S3 writes checksums.
pub(super) fn checksum(digest: &Digest) -> String {
    BASE64_STANDARD.encode(digest.as_bytes())
}

/// A checksum over the whole object; those over parts ("…-3") are no digest.
fn digest(checksum: &str) -> Option<Digest> {
    let bytes: [u8; 32] = BASE64_STANDARD.decode(checksum).ok()?.try_into().ok()?;
    Some(Digest::from(bytes))
}

/// A version id; what an unversioned bucket calls "null" is none.
pub(super) fn version(id: Option<String>) -> Option<String> {
    id.filter(|id| id != "null")
}

/// Whether objects of this class must be thawed before they can be read.
pub(super) fn is_archive(class: &str) -> bool {
    matches!(class, "GLACIER" | "DEEP_ARCHIVE")
}

pub(super) fn size(length: Option<i64>) -> u64 {
    length.and_then(|length| u64::try_from(length).ok()).unwrap_or_default()
}

pub(super) fn instant(time: Option<&S3DateTime>) -> DateTime<Utc> {
    time.and_then(|time| DateTime::from_timestamp(time.secs(), time.subsec_nanos())).unwrap_or_default()
}
