//! [`Faulty`]: any repository, with faults by script. For tests of everything above storage.
//!
//! Each fault waits for one kind of operation and is used up by it; others pass through. A test asks how many fired:
//! one that did not has proved nothing.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use crate::host::Complete;
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::storage::{
    Download, Features, Link, ObjectMeta, Page, PageToken, Posture, Probe, PutOptions, Storage, StorageError,
    StorageErrorKind, Stored, Thaw, Unfinished, Upload,
};

/// What a fault waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// [`Storage::head`].
    Head,
    /// [`Storage::get`], and the bytes it gives.
    Get,
    /// [`Storage::put`].
    Put,
    /// [`Storage::upload`].
    Upload,
    /// [`Upload::write`].
    Write,
    /// [`Upload::commit`].
    Commit,
    /// [`Storage::delete`].
    Delete,
    /// [`Storage::list`], `folders` and `unfinished`.
    List,
    /// Anything else.
    Other,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Not carried out; an error of this kind.
    Fails(StorageErrorKind),
    /// Carried out, but the answer is a transient error.
    LosesAnswer,
    /// Carried out, but the answer is that the key is taken: as when it was lost and the store was asked again.
    FindsItselfThere,
    /// Carried out after a wait.
    Waits(Duration),
    /// Never answered.
    Hangs,
    /// Nothing goes wrong: lets one operation pass before the next fault.
    Passes,
    /// The bytes of a download end with a transient error after so many.
    CutsAt(u64),
    /// One byte of a download, at this offset, is another one.
    FlipsByte(u64),
}

/// A repository with faults.
#[derive(Clone, Debug)]
pub struct Faulty {
    inner: Arc<dyn Storage>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    faults: VecDeque<(Operation, Fault)>,
    fired: usize,
}

impl Faulty {
    /// `inner` without faults as yet.
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Adds a fault; those of one operation fire in the order they were added.
    pub fn fault(&self, operation: Operation, fault: Fault) {
        self.script().faults.push_back((operation, fault));
    }

    /// How many faults have fired.
    pub fn fired(&self) -> usize {
        self.script().fired
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, operation: Operation) -> Option<Fault> {
        let mut script = self.script();
        let at = script.faults.iter().position(|(waits_for, _)| *waits_for == operation)?;
        let (_, fault) = script.faults.remove(at)?;
        script.fired += usize::from(fault != Fault::Passes);
        Some(fault)
    }

    async fn through<T: Send>(
        &self,
        operation: Operation,
        work: impl Future<Output = Result<T, StorageError>> + Send,
    ) -> Result<T, StorageError> {
        through(self.take(operation), operation, work).await
    }
}

async fn through<T: Send>(
    fault: Option<Fault>,
    operation: Operation,
    work: impl Future<Output = Result<T, StorageError>> + Send,
) -> Result<T, StorageError> {
    let error = |kind| Err(StorageError::new(kind, format!("{operation:?}: {kind:?} by request of the test")));
    match fault {
        Some(Fault::Fails(kind)) => error(kind),
        Some(Fault::LosesAnswer) => work.await.and_then(|_| error(StorageErrorKind::Transient)),
        Some(Fault::FindsItselfThere) => work.await.and_then(|_| error(StorageErrorKind::Exists)),
        Some(Fault::Hangs) => std::future::pending().await,
        Some(Fault::Waits(wait)) => {
            pause(wait).await;
            work.await
        }
        Some(Fault::Passes | Fault::CutsAt(_) | Fault::FlipsByte(_)) | None => work.await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the wait is the fault")]
async fn pause(wait: Duration) {
    tokio::time::sleep(wait).await;
}

#[async_trait]
impl Storage for Faulty {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn features(&self) -> Features {
        self.inner.features()
    }

    async fn probe(&self) -> Result<Probe, StorageError> {
        self.through(Operation::Other, self.inner.probe()).await
    }

    async fn posture(&self) -> Result<Option<Posture>, StorageError> {
        self.through(Operation::Other, self.inner.posture()).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.through(Operation::Head, self.inner.head(key)).await
    }

    async fn get(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError> {
        let fault = self.take(Operation::Get);
        let download = through(fault, Operation::Get, self.inner.get(key, version, range)).await?;
        Ok(Box::new(FaultyDownload { inner: download, fault, given: 0 }))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<Stored, StorageError> {
        self.through(Operation::Put, self.inner.put(key, body, options)).await
    }

    async fn upload(&self, key: &ObjectKey, options: &PutOptions) -> Result<Box<dyn Upload>, StorageError> {
        let inner = self.through(Operation::Upload, self.inner.upload(key, options)).await?;
        Ok(Box::new(FaultyUpload { storage: self.clone(), inner }))
    }

    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StorageError> {
        self.through(Operation::Delete, self.inner.delete(key, version)).await
    }

    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
        self.through(Operation::List, self.inner.list(prefix, from)).await
    }

    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError> {
        self.through(Operation::List, self.inner.folders_in(above)).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError> {
        self.through(Operation::List, self.inner.unfinished()).await
    }

    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError> {
        self.through(Operation::Other, self.inner.abort(unfinished)).await
    }

    async fn thaw(&self, key: &ObjectKey, version: Option<&str>, days: u32) -> Result<Thaw, StorageError> {
        self.through(Operation::Other, self.inner.thaw(key, version, days)).await
    }

    async fn link(&self, key: &ObjectKey, version: Option<&str>, lasts: Duration) -> Result<Link, StorageError> {
        self.through(Operation::Other, self.inner.link(key, version, lasts)).await
    }
}

struct FaultyDownload {
    inner: Box<dyn Download>,
    fault: Option<Fault>,
    given: u64,
}

#[async_trait]
impl Download for FaultyDownload {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.fault == Some(Fault::CutsAt(self.given)) {
            return Err(StorageError::new(StorageErrorKind::Transient, "read: cut by request of the test"));
        }
        let Some(piece) = self.inner.next().await? else { return Ok(None) };
        let begin = self.given;
        let reaches = |at: u64| at >= begin && at - begin < piece.len() as u64;
        let piece = match self.fault {
            Some(Fault::CutsAt(at)) if reaches(at) => piece.slice(..(at - begin) as usize),
            Some(Fault::FlipsByte(at)) if reaches(at) => {
                let mut bytes = BytesMut::from(piece.as_ref());
                bytes[(at - begin) as usize] ^= 0x20;
                bytes.freeze()
            }
            _ => piece,
        };
        self.given += piece.len() as u64;
        Ok(Some(piece))
    }
}

struct FaultyUpload {
    storage: Faulty,
    inner: Box<dyn Upload>,
}

#[async_trait]
impl Upload for FaultyUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.storage.through(Operation::Write, self.inner.write(bytes)).await
    }

    async fn commit(self: Box<Self>, proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        self.storage.through(Operation::Commit, self.inner.commit(proof, digest, size)).await
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.inner.abort().await
    }
}
