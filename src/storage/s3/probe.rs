//! Asking a bucket what it can do: is it there, in this region, for this login; does it keep versions; can it lock.
//!
//! Versions and locks are the bucket owner's business: a writer may have no right to ask, which then counts as no.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::{DateTime as S3DateTime, DateTimeFormat};
use aws_sdk_s3::types::{BucketVersioningStatus, ObjectLockEnabled};
use chrono::{DateTime, TimeDelta, Utc};

use crate::storage::s3::bucket::{Bucket, instant};
use crate::storage::{Features, Probe, StorageError, StorageErrorKind};

/// Asks.
pub(super) async fn probe(bucket: &Bucket) -> Result<Probe, StorageError> {
    let name = &bucket.settings.bucket;
    let clock = DateReader::default();
    let what = format!("find the bucket {name}");
    let found = bucket
        .send(&what, 0, || bucket.client.head_bucket().bucket(name).customize().interceptor(clock.clone()).send());
    found.await.map_err(|error| missing_bucket(&what, error))?;
    let what = format!("ask the bucket {name} for versions");
    let versions = bucket.send(&what, 0, || bucket.client.get_bucket_versioning().bucket(name).send()).await;
    let versions = granted(versions)?.is_some_and(|output| output.status() == Some(&BucketVersioningStatus::Enabled));
    let what = format!("ask the bucket {name} for its lock");
    let lock = bucket.send(&what, 0, || bucket.client.get_object_lock_configuration().bucket(name).send()).await;
    let object_lock = granted(lock)?.is_some_and(|output| {
        let configuration = output.object_lock_configuration();
        configuration.and_then(|lock| lock.object_lock_enabled()) == Some(&ObjectLockEnabled::Enabled)
    });
    let features =
        Features { conditional_put: bucket.settings.conditional_put, storage_classes: true, versions, object_lock };
    Ok(Probe { features, clock_offset: clock.offset() })
}

/// HEAD has no body: a bare 404 on a bucket can only mean the bucket.
fn missing_bucket(what: &str, error: StorageError) -> StorageError {
    if error.is_missing() {
        return StorageError::new(StorageErrorKind::Missing, format!("{what}: there is no such bucket"));
    }
    error
}

/// The answer, or nothing where the store has none to give: not configured, not built, not allowed to ask.
fn granted<T>(answer: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
    match answer {
        Ok(output) => Ok(Some(output)),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => Ok(None),
    }
}

/// Reads how far the store's clock (`Date`) is ahead of ours.
#[derive(Clone, Debug, Default)]
struct DateReader(Arc<Mutex<Option<TimeDelta>>>);

impl DateReader {
    fn offset(&self) -> Option<TimeDelta> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Intercept for DateReader {
    fn name(&self) -> &'static str {
        "DateReader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let theirs = date.and_then(|date| S3DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        let ours = components.time_source().map(|source| DateTime::<Utc>::from(source.now()));
        if let (Some(theirs), Some(ours)) = (theirs, ours) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(instant(Some(&theirs)) - ours);
        }
        Ok(())
    }
}
