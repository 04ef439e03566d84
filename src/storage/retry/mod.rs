//! [`Retrying`]: any repository, with patience. The one place where whole operations are tried again.
//!
//! The SDK's own retries are off, so that tries never multiply: only here are the outcome of a lost answer (by nonce),
//! a shared budget and the resumption of a download known. An upload's bytes are gone once they are handed over, so
//! a backend tries its own parts again, with the same [`Retrier`]; this wrapper passes uploads through.

use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::model::key::ObjectKey;
use crate::storage::{
    Download, Features, Link, ObjectMeta, Page, PageToken, Posture, Probe, PutOptions, Storage, StorageError, Stored,
    Thaw, Unfinished, Upload,
};

mod download;
mod policy;

pub use policy::{Retrier, RetryPolicy};

/// A repository whose transient failures are waited out.
#[derive(Clone, Debug)]
pub struct Retrying {
    inner: Arc<dyn Storage>,
    retrier: Retrier,
}

impl Retrying {
    /// `inner`, with the patience of `retrier`. Give a backend with uploads of its own (S3) a clone of the same one.
    pub fn new(inner: Arc<dyn Storage>, retrier: Retrier) -> Self {
        Self { inner, retrier }
    }

    async fn run<T, F>(&self, work: impl FnMut() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        self.retrier.run(work).await
    }
}

/// Puts `body`, again while that fails for a time. An answer that got lost is told from somebody else's object by the
/// nonce: `Exists` comes back only when the object is not ours.
pub(super) async fn put(
    retrier: &Retrier,
    storage: &dyn Storage,
    key: &ObjectKey,
    body: Bytes,
    options: &PutOptions,
) -> Result<Stored, StorageError> {
    let nonce = options.nonce.clone().unwrap_or_else(fresh_nonce);
    let options = PutOptions { nonce: Some(nonce.clone()), ..options.clone() };
    let mut tried = 0;
    let answer = retrier.run(|| {
        tried += 1;
        let (tried, body, options, nonce) = (tried, body.clone(), &options, &nonce);
        async move {
            match storage.put(key, body, options).await {
                Err(error) if error.is_exists() && tried > 1 => ours(storage, key, nonce).await?.ok_or(error),
                answer => answer,
            }
        }
    });
    match answer.await {
        // The last try may have been carried out as well. If even this look fails, the first error says more.
        Err(error) if error.is_transient() => ours(storage, key, &nonce).await.ok().flatten().ok_or(error),
        answer => answer,
    }
}

/// The object under `key`, if it was written with `nonce`.
async fn ours(storage: &dyn Storage, key: &ObjectKey, nonce: &str) -> Result<Option<Stored>, StorageError> {
    match storage.head(key).await {
        Ok(meta) if meta.nonce.as_deref() == Some(nonce) => {
            Ok(Some(Stored { version: meta.version, size: meta.size, digest: meta.digest, read_back: false }))
        }
        Ok(_) => Ok(None),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A nonce that nobody else will use.
pub(super) fn fresh_nonce() -> String {
    format!("{:032x}", rand::random::<u128>())
}

#[async_trait]
impl Storage for Retrying {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    async fn probe(&self) -> Result<Probe, StorageError> {
        self.run(|| self.inner.probe()).await
    }

    async fn posture(&self) -> Result<Option<Posture>, StorageError> {
        self.run(|| self.inner.posture()).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.run(|| self.inner.head(key)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError> {
        let download = self.run(|| self.inner.get(key, version, range.clone())).await?;
        let start = range.map_or(0, |range| range.start);
        Ok(Box::new(download::Resuming::new(self.clone(), key, version, start, download)))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<Stored, StorageError> {
        put(&self.retrier, self.inner.as_ref(), key, body, options).await
    }

    async fn upload(&self, key: &ObjectKey, options: &PutOptions) -> Result<Box<dyn Upload>, StorageError> {
        self.run(|| self.inner.upload(key, options)).await
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StorageError> {
        self.run(|| self.inner.delete(key, version)).await
    }

    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
        self.run(|| self.inner.list(prefix, from)).await
    }

    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError> {
        self.run(|| self.inner.folders_in(above)).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError> {
        self.run(|| self.inner.unfinished()).await
    }

    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError> {
        self.run(|| self.inner.abort(unfinished)).await
    }

    async fn thaw(&self, key: &ObjectKey, version: Option<&str>, days: u32) -> Result<Thaw, StorageError> {
        self.run(|| self.inner.thaw(key, version, days)).await
    }

    async fn link(&self, key: &ObjectKey, version: Option<&str>, lasts: Duration) -> Result<Link, StorageError> {
        self.run(|| self.inner.link(key, version, lasts)).await
    }
}
