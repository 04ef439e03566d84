//! The multipart uploader: bounded in memory, checked part by part, invisible until completed.
//!
//! An object that fits one part goes as a single PUT. The outcome of a completion whose answer is lost, garbled or a
//! 412 is found out by HEAD: our nonce in the metadata means it is ours. Dropping an unfinished upload cancels its
//! parts and aborts it in the background; what a killed process leaves, or a creation whose answer is lost, is found by
//! `unfinished`.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use tokio::task::JoinSet;

use crate::host::Complete;
use crate::model::digest::{Digest, Hasher};
use crate::model::key::ObjectKey;
use crate::storage::retry::fresh_nonce;
use crate::storage::s3::S3Storage;
use crate::storage::s3::bucket::{Bucket, NONCE, checksum, version};
use crate::storage::s3::part::{Body, Filling};
use crate::storage::s3::parts::PartSizes;
use crate::storage::{PutOptions, StorageError, StorageErrorKind, Stored, Upload, agree, retry};

pub(super) struct S3Upload {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    /// With a nonce, always.
    options: PutOptions,
    nonce: String,
    sizes: PartSizes,
    filling: Filling,
    hasher: Hasher,
    size: u64,
    multipart: Option<Multipart>,
    failed: bool,
}

/// An upload of parts that the store knows of.
struct Multipart {
    id: String,
    sending: JoinSet<Result<Part, StorageError>>,
    sent: Vec<Part>,
    parts: u32,
    bytes: u64,
}

struct Part {
    number: i32,
    tag: Option<String>,
    digest: Digest,
}

impl S3Upload {
    pub(super) fn begin(bucket: Arc<Bucket>, key: &ObjectKey, options: &PutOptions) -> Result<Self, StorageError> {
        let settings = &bucket.settings;
        let sizes = PartSizes::plan(settings.part_size, settings.most_parts, options.expected_size);
        let sizes = sizes.ok_or_else(|| {
            let (expected, parts) = (options.expected_size.unwrap_or_default(), settings.most_parts);
            let what = bucket.what("write", key.as_str());
            let message = format!("{what}: {expected} bytes do not fit {parts} parts");
            StorageError::new(StorageErrorKind::Other, message)
        })?;
        let nonce = options.nonce.clone().unwrap_or_else(fresh_nonce);
        Ok(Self {
            key: key.clone(),
            options: PutOptions { nonce: Some(nonce.clone()), ..options.clone() },
            nonce,
            sizes,
            filling: Filling::default(),
            hasher: Hasher::default(),
            size: 0,
            multipart: None,
            failed: false,
            bucket,
        })
    }

    /// How many more bytes the part being filled takes.
    fn room(&self) -> Result<u64, StorageError> {
        let (parts, bytes) = self.multipart.as_ref().map_or((0, 0), |multipart| (multipart.parts, multipart.bytes));
        let size = self.sizes.size(parts + 1, bytes).ok_or_else(|| {
            let what = self.bucket.what("write", self.key.as_str());
            StorageError::new(StorageErrorKind::Other, format!("{what}: it needs more than {parts} parts"))
        })?;
        Ok(size.saturating_sub(self.filling.len()))
    }

    async fn take(&mut self, mut bytes: Bytes) -> Result<(), StorageError> {
        while !bytes.is_empty() {
            let room = self.room()?;
            if room == 0 {
                self.send_part().await?;
                continue;
            }
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let piece = bytes.split_to(room.min(bytes.len()));
            if self.filling.is_empty() {
                self.filling = Filling::begin(room, self.bucket.settings.spills(room))?;
            }
            self.filling.extend(&piece).await?;
        }
        Ok(())
    }

    /// Hands the filled part over; waits while all buffers but the next are in flight.
    async fn send_part(&mut self) -> Result<(), StorageError> {
        let body = self.filling.close().await?;
        self.send(body).await
    }

    async fn send(&mut self, body: Body) -> Result<(), StorageError> {
        let mut multipart = match self.multipart.take() {
            Some(multipart) => multipart,
            None => self.create().await?,
        };
        multipart.parts += 1;
        multipart.bytes += body.len();
        let part = OnePart {
            bucket: Arc::clone(&self.bucket),
            key: self.key.clone(),
            id: multipart.id.clone(),
            number: i32::try_from(multipart.parts).unwrap_or(i32::MAX),
            body,
        };
        multipart.sending.spawn(part.send());
        let multipart = self.multipart.insert(multipart);
        while multipart.sending.len() >= self.bucket.settings.parts_in_flight.max(1) {
            multipart.collect_one().await?;
        }
        Ok(())
    }

    async fn create(&self) -> Result<Multipart, StorageError> {
        let bucket = &self.bucket;
        let what = bucket.what("begin an upload to", self.key.as_str());
        let create = || async {
            let output = bucket.send(&what, 0, || {
                let wishes = bucket.wishes(&self.options);
                bucket
                    .client
                    .create_multipart_upload()
                    .bucket(&bucket.settings.bucket)
                    .key(bucket.key(self.key.as_str()))
                    .checksum_algorithm(ChecksumAlgorithm::Sha256)
                    .metadata(NONCE, &self.nonce)
                    .set_storage_class(wishes.class)
                    .set_server_side_encryption(wishes.sse)
                    .set_ssekms_key_id(wishes.kms_key)
                    .set_object_lock_mode(wishes.lock)
                    .set_object_lock_retain_until_date(wishes.locked_until)
                    .send()
            });
            let id = output.await?.upload_id.unwrap_or_default();
            if id.is_empty() {
                return Err(StorageError::new(
                    StorageErrorKind::Transient,
                    format!("{what}: the store names no upload"),
                ));
            }
            Ok(id)
        };
        let id = bucket.retrier.run(create).await?;
        Ok(Multipart { id, sending: JoinSet::new(), sent: Vec::new(), parts: 0, bytes: 0 })
    }

    /// One PUT, which the store has to confirm.
    async fn put_whole(&mut self, body: Bytes) -> Result<Stored, StorageError> {
        let size = body.len() as u64;
        let storage = S3Storage { bucket: Arc::clone(&self.bucket) };
        let stored = retry::put(&self.bucket.retrier, &storage, &self.key, body, &self.options).await?;
        if stored.digest.is_some() { Ok(stored) } else { self.confirm(stored.version, size).await }
    }

    async fn complete(&mut self, size: u64) -> Result<Stored, StorageError> {
        if !self.filling.is_empty() {
            self.send_part().await?;
        }
        if let Some(multipart) = &mut self.multipart {
            multipart.collect_all().await?;
        }
        let Some(multipart) = &self.multipart else { return Err(self.unusable()) };
        // Always: radosgw (up to 16 at least) heeds If-None-Match on a PUT and ignores it here.
        self.bucket.retrier.run(|| self.bucket.look_first(&self.key)).await?;
        let answer = self.bucket.retrier.run(|| self.try_complete(multipart));
        let (version, sum) = answer.await?;
        if let Err(error) = self.lock(version.as_deref()).await {
            self.bucket.withdraw(&self.key, &self.options, "it could not be locked").await;
            return Err(error);
        }
        match sum {
            Some(sum) if sum == multipart.checksum() => Ok(Stored { version, size, digest: None, read_back: false }),
            Some(_) => {
                Err(self.bucket.withdraw(&self.key, &self.options, "the store has computed another checksum").await)
            }
            None => self.confirm(version, size).await,
        }
    }

    /// Completes once. Answers version and checksum, as far as the store tells them.
    async fn try_complete(&self, multipart: &Multipart) -> Result<(Option<String>, Option<String>), StorageError> {
        let bucket = &self.bucket;
        let what = bucket.what("complete the upload to", self.key.as_str());
        let answer = bucket.send(&what, 0, || {
            bucket
                .client
                .complete_multipart_upload()
                .bucket(&bucket.settings.bucket)
                .key(bucket.key(self.key.as_str()))
                .upload_id(&multipart.id)
                .set_if_none_match(bucket.settings.conditional_put.then(|| "*".to_owned()))
                .multipart_upload(multipart.completed())
                .send()
        });
        let error = match answer.await {
            Ok(output) => return Ok((version(output.version_id), output.checksum_sha256)),
            Err(error) => error,
        };
        // Whatever it says (moto's success cannot even be read): the object tells.
        match bucket.head(&self.key).await {
            Ok(meta) if meta.nonce.as_ref() == Some(&self.nonce) => Ok((meta.version, None)),
            Ok(_) => Err(StorageError::new(StorageErrorKind::Exists, format!("{what}: the key is taken"))),
            Err(missing) if missing.is_missing() && error.is_missing() => {
                let message = format!("{what}: the store has dropped the upload; it has to be begun again");
                Err(StorageError::new(StorageErrorKind::Other, message).because(error))
            }
            Err(missing) if missing.is_missing() => Err(error),
            Err(unknown) => Err(unknown),
        }
    }

    /// Asks once more for the lock that the upload was begun with: radosgw (16 at least) forgets it on completion.
    async fn lock(&self, version: Option<&str>) -> Result<(), StorageError> {
        let bucket = &self.bucket;
        let Some(retention) = bucket.retention(&self.options) else { return Ok(()) };
        let what = bucket.what("lock", self.key.as_str());
        let lock = || {
            bucket.send(&what, 0, || {
                let request = bucket.client.put_object_retention().bucket(&bucket.settings.bucket);
                let request = request.key(bucket.key(self.key.as_str())).retention(retention.clone());
                request.set_version_id(version.map(str::to_owned)).send()
            })
        };
        bucket.retrier.run(lock).await.map(drop)
    }

    /// Looks whether the store has what we sent.
    async fn confirm(&self, version: Option<String>, size: u64) -> Result<Stored, StorageError> {
        let meta = self.bucket.retrier.run(|| self.bucket.head(&self.key)).await?;
        if meta.nonce.is_some_and(|nonce| nonce != self.nonce) {
            let message = format!("{}: another writer has replaced it", self.bucket.what("write", self.key.as_str()));
            return Err(StorageError::new(StorageErrorKind::Exists, message));
        }
        if meta.size == size {
            return Ok(Stored { version: version.or(meta.version), size, digest: meta.digest, read_back: false });
        }
        let why = format!("the store has {} bytes instead of {size}", meta.size);
        Err(self.bucket.withdraw(&self.key, &self.options, &why).await)
    }

    async fn end(&mut self) -> Result<(), StorageError> {
        let Some(mut multipart) = self.multipart.take() else { return Ok(()) };
        multipart.sending.shutdown().await;
        let (bucket, key, id) = (&self.bucket, &self.key, &multipart.id);
        bucket.retrier.run(|| abort(bucket, key.as_str(), id)).await
    }

    /// Ends it after another error, which is the one to be told.
    async fn end_or_tell(&mut self) {
        if let Err(error) = self.end().await {
            tracing::warn!(error = %error, "an upload is left behind; expire will end it");
        }
    }

    fn unusable(&self) -> StorageError {
        let what = self.bucket.what("write", self.key.as_str());
        StorageError::new(StorageErrorKind::Other, format!("{what}: the upload has failed before"))
    }
}

impl Multipart {
    async fn collect_one(&mut self) -> Result<(), StorageError> {
        match self.sending.join_next().await {
            Some(Ok(part)) => self.sent.push(part?),
            Some(Err(error)) => {
                return Err(StorageError::new(StorageErrorKind::Other, "send a part").because(error));
            }
            None => {}
        }
        Ok(())
    }

    async fn collect_all(&mut self) -> Result<(), StorageError> {
        while !self.sending.is_empty() {
            self.collect_one().await?;
        }
        self.sent.sort_by_key(|part| part.number);
        Ok(())
    }

    fn completed(&self) -> CompletedMultipartUpload {
        let parts = self.sent.iter().map(|part| {
            let completed = CompletedPart::builder().part_number(part.number).set_e_tag(part.tag.clone());
            completed.checksum_sha256(checksum(&part.digest)).build()
        });
        CompletedMultipartUpload::builder().set_parts(Some(parts.collect())).build()
    }

    /// The checksum over the parts' checksums ("Checking object integrity", composite checksums).
    fn checksum(&self) -> String {
        let mut hasher = Hasher::default();
        self.sent.iter().for_each(|part| hasher.update(part.digest.as_bytes()));
        format!("{}-{}", checksum(&hasher.finish()), self.sent.len())
    }
}

/// Ends the upload `id` in the store; one that is gone is no error.
pub(super) async fn abort(bucket: &Bucket, key: &str, id: &str) -> Result<(), StorageError> {
    let what = bucket.what("abort the upload to", key);
    let answer = bucket.send(&what, 0, || {
        let request = bucket.client.abort_multipart_upload().bucket(&bucket.settings.bucket).key(bucket.key(key));
        request.upload_id(id).send()
    });
    match answer.await {
        Err(error) if error.is_missing() => Ok(()),
        answer => answer.map(drop),
    }
}

/// One part on its way.
struct OnePart {
    bucket: Arc<Bucket>,
    key: ObjectKey,
    id: String,
    number: i32,
    body: Body,
}

impl OnePart {
    async fn send(self) -> Result<Part, StorageError> {
        let digest = self.body.digest().await?;
        let tag = self.bucket.retrier.run(|| self.try_send(&digest)).await?;
        Ok(Part { number: self.number, tag, digest })
    }

    async fn try_send(&self, digest: &Digest) -> Result<Option<String>, StorageError> {
        let bucket = &self.bucket;
        let what = format!("{}, part {}", bucket.what("write", self.key.as_str()), self.number);
        let sum = checksum(digest);
        let output = bucket.send(&what, self.body.len(), || async {
            let body = self.body.stream().await.map_err(SdkError::construction_failure)?;
            let request = bucket
                .client
                .upload_part()
                .bucket(&bucket.settings.bucket)
                .key(bucket.key(self.key.as_str()))
                .upload_id(&self.id)
                .part_number(self.number)
                .checksum_sha256(&sum)
                .body(body)
                .customize();
            if bucket.is_encrypted() { request.disable_payload_signing().send().await } else { request.send().await }
        });
        let output = output.await?;
        if output.checksum_sha256().is_some_and(|theirs| theirs != sum) {
            let message = format!("{what}: the store has computed another checksum");
            return Err(StorageError::new(StorageErrorKind::Corrupt, message));
        }
        Ok(output.e_tag)
    }
}

#[async_trait]
impl Upload for S3Upload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if self.failed {
            return Err(self.unusable());
        }
        self.hasher.update(&bytes);
        self.size += bytes.len() as u64;
        let taken = self.take(bytes).await;
        if taken.is_err() {
            self.failed = true;
            self.end_or_tell().await;
        }
        taken
    }

    async fn commit(mut self: Box<Self>, _proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        let written = (std::mem::take(&mut self.hasher).finish(), self.size);
        let answer = match agree(&self.key, written, (digest, size)) {
            Ok(()) if self.failed => Err(self.unusable()),
            Ok(()) if self.multipart.is_some() => self.complete(size).await,
            Ok(()) => match self.filling.close().await {
                Ok(Body::Memory(body)) => self.put_whole(body).await,
                // It was begun for an object that was expected to be much larger.
                Ok(body @ Body::File { .. }) => match self.send(body).await {
                    Ok(()) => self.complete(size).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        if answer.is_ok() {
            self.multipart = None;
        } else {
            self.end_or_tell().await;
        }
        answer
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        self.end().await
    }
}

impl Drop for S3Upload {
    fn drop(&mut self) {
        let Some(mut multipart) = self.multipart.take() else { return };
        let (bucket, key) = (Arc::clone(&self.bucket), self.key.clone());
        // Outside a runtime nothing can be sent any more: `unfinished` will find it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            multipart.sending.shutdown().await;
            if let Err(error) = bucket.retrier.run(|| abort(&bucket, key.as_str(), &multipart.id)).await {
                tracing::warn!(error = %error, "an upload is left behind; expire will end it");
            }
        });
    }
}
