//! A repository in an S3 bucket, below a prefix: AWS or any store that speaks its language well enough.
//!
//! Sends each request once; [`crate::storage::Retrying`] around it tries again, and the uploader tries its parts again
//! with the same budget. Create-only by `If-None-Match: *`, or by looking first where the store lacks it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::types::{GlacierJobParameters, RestoreRequest, Tier};
use bytes::Bytes;

use crate::model::key::ObjectKey;
use crate::storage::memory::Piece;
use crate::storage::{
    Download, Features, Link, ObjectMeta, Page, PageToken, Posture, Probe, PutOptions, Retrier, Storage, StorageError,
    StorageErrorKind, Stored, Thaw, Unfinished, Upload,
};

mod answer;
mod bucket;
mod connect;
mod credentials;
mod download;
mod listing;
mod part;
mod parts;
mod posture;
mod probe;
mod settings;
mod upload;

use bucket::Bucket;
pub use settings::{ObjectLock, S3Settings, Sse};

/// The longest a presigned link can last (Signature Version 4).
const LONGEST_LINK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A repository in S3.
#[derive(Clone, Debug)]
pub struct S3Storage {
    bucket: Arc<Bucket>,
}

impl S3Storage {
    /// Opens the repository without asking the store. `credentials` instead of those of the SDK's chain; `retrier` for
    /// the parts of uploads: a clone of the one in the [`crate::storage::Retrying`] around this.
    pub async fn connect(
        settings: S3Settings,
        credentials: Option<SharedCredentialsProvider>,
        retrier: Retrier,
    ) -> Result<Self, StorageError> {
        Ok(Self { bucket: Arc::new(Bucket::connect(settings, credentials, retrier).await?) })
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket.settings.bucket, self.bucket.settings.prefix)
    }

    fn features(&self) -> Features {
        let settings = &self.bucket.settings;
        Features {
            conditional_put: settings.conditional_put,
            storage_classes: true,
            versions: false,
            object_lock: settings.lock.is_some(),
        }
    }

    async fn probe(&self) -> Result<Probe, StorageError> {
        probe::probe(&self.bucket).await
    }

    async fn posture(&self) -> Result<Option<Posture>, StorageError> {
        posture::posture(&self.bucket).await.map(Some)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.bucket.head(key).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError> {
        if let Some(range) = range.as_ref().filter(|range| range.is_empty()) {
            // No header can ask for nothing.
            let meta = self.head(key).await?;
            crate::storage::range_within(key, Some(range.clone()), meta.size)?;
            return Ok(Box::new(Piece::of(Bytes::new())));
        }
        Ok(Box::new(download::S3Download::begin(&self.bucket, key, version, range).await?))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<Stored, StorageError> {
        self.bucket.put(key, &body, options).await
    }

    async fn upload(&self, key: &ObjectKey, options: &PutOptions) -> Result<Box<dyn Upload>, StorageError> {
        Ok(Box::new(upload::S3Upload::begin(Arc::clone(&self.bucket), key, options)?))
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StorageError> {
        self.bucket.delete(key, version).await
    }

    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
        listing::page(&self.bucket, prefix, from).await
    }

    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError> {
        listing::folders(&self.bucket, above).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError> {
        listing::unfinished(&self.bucket).await
    }

    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError> {
        upload::abort(&self.bucket, &unfinished.key, &unfinished.handle).await
    }

    async fn thaw(&self, key: &ObjectKey, version: Option<&str>, days: u32) -> Result<Thaw, StorageError> {
        let meta = self.head(key).await?;
        if meta.readable {
            return Ok(Thaw::Readable);
        }
        let bucket = &self.bucket;
        let what = bucket.what("thaw", key.as_str());
        let tier = GlacierJobParameters::builder().tier(Tier::Standard).build();
        let tier = tier.map_err(|error| StorageError::new(StorageErrorKind::Other, what.clone()).because(error))?;
        let days = i32::try_from(days).unwrap_or(i32::MAX);
        let wanted = RestoreRequest::builder().days(days).glacier_job_parameters(tier).build();
        let answer = bucket.send(&what, 0, || {
            let request = bucket.client.restore_object().bucket(&bucket.settings.bucket).key(bucket.key(key.as_str()));
            request.set_version_id(version.map(str::to_owned)).restore_request(wanted.clone()).send()
        });
        match answer.await {
            Err(error) if !error.message.contains("RestoreAlreadyInProgress") => Err(error),
            _ => Ok(Thaw::Underway { expected: thawing_time(meta.storage_class.as_deref()) }),
        }
    }

    async fn link(&self, key: &ObjectKey, version: Option<&str>, lasts: Duration) -> Result<Link, StorageError> {
        let bucket = &self.bucket;
        let what = bucket.what("make a link to", key.as_str());
        let fault = |error| StorageError::new(StorageErrorKind::Other, what.clone()).because(error);
        let login = bucket.credentials.current().await.map_err(|error| fault(error.to_string()))?;
        let left = login.expiry().map(|end| end.duration_since(credentials::now()).unwrap_or_default());
        let lasts = lasts.min(LONGEST_LINK).min(left.unwrap_or(LONGEST_LINK));
        let config = PresigningConfig::expires_in(lasts).map_err(|error| fault(error.to_string()))?;
        let request = bucket.client.get_object().bucket(&bucket.settings.bucket).key(bucket.key(key.as_str()));
        let signed = request.set_version_id(version.map(str::to_owned)).presigned(config).await;
        let signed = signed.map_err(|error| answer::error_of(&what, &error))?;
        Ok(Link { url: signed.uri().to_owned(), lasts })
    }
}

/// How long AWS takes in its standard tier ("Archive retrieval options").
fn thawing_time(class: Option<&str>) -> Duration {
    let hours = if class == Some("DEEP_ARCHIVE") { 12 } else { 5 };
    Duration::from_secs(hours * 3600)
}
