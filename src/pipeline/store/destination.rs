//! The destinations: a task for each upload, fed at once, so that none waits for another longer than its patience.
//!
//! An upload that fails, or takes nothing for its stall timeout, is aborted and given up; the stream goes on for the
//! others. Until then its queue being full holds everybody back: that is the backpressure.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::host::{FailPoint, reach};
use crate::storage::{StorageError, StorageErrorKind, Upload};

/// Pieces waiting for an upload beyond those it has taken.
const QUEUE: usize = 4;

/// One place to store to.
pub struct Destination {
    /// The repository's name, for messages and outcomes.
    pub name: String,
    /// The upload, begun.
    pub upload: Box<dyn Upload>,
    /// How long it may take nothing before it is given up.
    pub stall_timeout: Duration,
}

/// What a destination is told.
enum Delivery {
    Piece(Bytes),
    End,
}

/// The queues of the destinations that are still taking part.
pub(super) struct Outlets(Vec<mpsc::Sender<Delivery>>);

/// What became of one destination: its upload, ready to be committed, or why it was given up.
pub type Delivered = Result<Box<dyn Upload>, StorageError>;

impl Outlets {
    /// Starts a task for each destination; answers the queues and the tasks by name.
    pub(super) fn open(
        destinations: Vec<Destination>,
        stop: &CancellationToken,
    ) -> (Self, Vec<(String, JoinHandle<Delivered>)>) {
        let mut outlets = Vec::new();
        let mut tasks = Vec::new();
        for destination in destinations {
            let (sender, receiver) = mpsc::channel(QUEUE);
            outlets.push(sender);
            let (name, stop) = (destination.name.clone(), stop.clone());
            tasks.push((name, tokio::spawn(deliver(destination, receiver, stop))));
        }
        (Self(outlets), tasks)
    }

    /// Sends a piece to everybody, waiting for room; false when nobody is left. Blocks.
    pub(super) fn send(&mut self, piece: &Bytes) -> bool {
        self.0.retain(|outlet| outlet.blocking_send(Delivery::Piece(piece.clone())).is_ok());
        !self.0.is_empty()
    }

    /// Tells everybody that the stream is whole. Without it, dropping the outlets aborts the uploads.
    pub(super) fn end(&mut self) {
        self.0.retain(|outlet| outlet.blocking_send(Delivery::End).is_ok());
    }
}

/// What became of a destination.
pub(super) async fn outcome(task: JoinHandle<Delivered>) -> Delivered {
    let died = |error| StorageError::new(StorageErrorKind::Other, "write: the upload died").because(error);
    task.await.unwrap_or_else(|error| Err(died(error)))
}

/// Writes what comes until the end is told; the upload comes back uncommitted.
async fn deliver(destination: Destination, mut queue: mpsc::Receiver<Delivery>, stop: CancellationToken) -> Delivered {
    let Destination { name, mut upload, stall_timeout } = destination;
    let error = loop {
        let delivery = tokio::select! {
            delivery = queue.recv() => delivery,
            () = stop.cancelled() => None,
        };
        let piece = match delivery {
            Some(Delivery::Piece(piece)) => piece,
            Some(Delivery::End) => return Ok(upload),
            None => break StorageError::new(StorageErrorKind::Other, format!("write to {name}: the stream broke off")),
        };
        let written = tokio::select! {
            written = timeout(stall_timeout, upload.write(piece)) => written,
            () = stop.cancelled() => Ok(Ok(())),
        };
        match written {
            Ok(Ok(())) => match reach(FailPoint::DumpPartSent) {
                Ok(()) => {}
                Err(error) => break StorageError::new(StorageErrorKind::Other, "write").because(error),
            },
            Ok(Err(error)) => break error,
            Err(_) => break stalled(&name, stall_timeout),
        }
    };
    // An abort that fails as well leaves parts behind, which expiry cleans up; the first error is the one that tells.
    let _ = timeout(stall_timeout, upload.abort()).await;
    Err(error)
}

fn stalled(name: &str, after: Duration) -> StorageError {
    StorageError::new(StorageErrorKind::Transient, format!("write to {name}: it took nothing for {after:?}"))
}
