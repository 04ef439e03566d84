//! Reading an object: the answer's promise is checked before the first byte, its length at the last.

use std::ops::Range;

use async_trait::async_trait;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use crate::model::key::ObjectKey;
use crate::storage::s3::bucket::{Bucket, size};
use crate::storage::{Download, StorageError, StorageErrorKind};

pub(super) struct S3Download {
    what: String,
    size: u64,
    given: u64,
    body: ByteStream,
}

impl S3Download {
    /// Begins to read `key`, or a `range` of it that is not empty.
    pub(super) async fn begin(
        bucket: &Bucket,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Self, StorageError> {
        let what = bucket.what("read", key.as_str());
        let header = range.as_ref().map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let output = bucket.send(&what, 0, || {
            let request = bucket.client.get_object().bucket(&bucket.settings.bucket).key(bucket.key(key.as_str()));
            request.set_version_id(version.map(str::to_owned)).set_range(header.clone()).send()
        });
        let output = output.await?;
        let size = size(output.content_length());
        let asked = range.map_or(size, |range| range.end - range.start);
        if size != asked {
            let message = format!("{what}: the store has {size} of the {asked} bytes asked for");
            return Err(StorageError::new(StorageErrorKind::Other, message));
        }
        Ok(Self { what, size, given: 0, body: output.body })
    }
}

#[async_trait]
impl Download for S3Download {
    fn size(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let cut = || {
            let message = format!("{}: cut at byte {} of {}", self.what, self.given, self.size);
            StorageError::new(StorageErrorKind::Transient, message)
        };
        match self.body.next().await {
            Some(Ok(bytes)) => {
                self.given += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Some(Err(error)) => Err(cut().because(error)),
            None if self.given == self.size => Ok(None),
            None => Err(cut()),
        }
    }
}
