//! Uploads and downloads in memory that fail, stall or end on request: what no real store does when asked.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use dbagent::host::Complete;
use dbagent::model::digest::Digest;
use dbagent::pipeline::store::Destination;
use dbagent::storage::{Download, StorageError, StorageErrorKind, Stored, Upload};

/// What an upload does once it has taken so many bytes.
#[derive(Clone, Copy)]
pub(crate) enum Fault {
    None,
    FailAfter(usize),
    StallAfter(usize),
    /// Fails like `FailAfter`, and keeps nothing of what it took.
    ForgetUntil(usize),
}

/// What became of an upload.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) bytes: Vec<u8>,
    pub(crate) taken: usize,
    pub(crate) largest_piece: usize,
    pub(crate) committed: Option<(Digest, u64)>,
    pub(crate) aborted: bool,
}

/// Watches an upload from outside.
#[derive(Clone, Default)]
pub(crate) struct Watch(Arc<Mutex<Seen>>);

impl Watch {
    pub(crate) fn see<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.0.lock().unwrap())
    }
}

struct WatchedUpload {
    watch: Watch,
    fault: Fault,
}

/// A destination that keeps what it takes, and the watch over it.
pub(crate) fn destination(name: &str, fault: Fault) -> (Destination, Watch) {
    let watch = Watch::default();
    let upload = Box::new(WatchedUpload { watch: watch.clone(), fault });
    (Destination { name: name.into(), upload, stall_timeout: Duration::from_millis(300) }, watch)
}

#[async_trait]
impl Upload for WatchedUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        let taken = self.watch.see(|seen| seen.taken);
        match self.fault {
            Fault::FailAfter(limit) | Fault::ForgetUntil(limit) if taken >= limit => {
                return Err(StorageError::new(StorageErrorKind::Full, "write: no room is left"));
            }
            Fault::StallAfter(limit) if taken >= limit => std::future::pending().await,
            _ => {}
        }
        let mut seen = self.watch.0.lock().unwrap();
        if !matches!(self.fault, Fault::ForgetUntil(_)) {
            seen.bytes.extend_from_slice(&bytes);
        }
        seen.taken += bytes.len();
        seen.largest_piece = seen.largest_piece.max(bytes.len());
        Ok(())
    }

    async fn commit(self: Box<Self>, _proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        self.watch.0.lock().unwrap().committed = Some((digest, size));
        Ok(Stored { version: None, size, digest: None, read_back: false })
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.watch.0.lock().unwrap().aborted = true;
        Ok(())
    }
}

/// Gives bytes in pieces.
pub(crate) struct PieceDownload(VecDeque<Bytes>);

impl PieceDownload {
    pub(crate) fn new(bytes: &[u8], piece: usize) -> Box<Self> {
        Box::new(Self(bytes.chunks(piece).map(Bytes::copy_from_slice).collect()))
    }
}

#[async_trait]
impl Download for PieceDownload {
    fn size(&self) -> u64 {
        self.0.iter().map(|piece| piece.len() as u64).sum()
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        Ok(self.0.pop_front())
    }
}
