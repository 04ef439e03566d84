//! Source -> content digest and row sums -> gzip -> OpenPGP -> stored digest -> every repository at once.
//!
//! Three kinds of threads (reader, compressors, packer) and a task per destination, joined by bounded queues, so that
//! the slowest part sets the pace and memory stays the same whatever the size. Nothing is committed here: the caller
//! commits each upload with the proof. The end of the stream travels as a message of its own; a part that dies can
//! therefore never look like the end.

mod content;
mod destination;
mod packer;
mod part;
mod reader;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use destination::{Delivered, Destination};
pub use part::{PartRecipe, store_part};

use super::archive::KeyPlan;
use super::deflate::Level;
use super::gzip;
use super::openpgp::Recipients;
use super::{PipelineError, thread};
use crate::host::{Complete, Source};
use crate::model::buckets::KeySums;
use crate::model::digest::{Digest, TableSum};
use crate::model::table::QualifiedTable;
use destination::Outlets;
use reader::Read;

/// How long a stopped run waits for a source that is being read, before it is left to itself.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// More compressing threads than this outrun one OpenPGP message.
const MOST_THREADS: usize = 8;

/// What to do with the bytes.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Whether the source is a pg_dump archive whose rows are to be summed.
    pub rows: bool,
    /// Of which of its tables the keys are to be summed as well.
    pub keys: BTreeMap<QualifiedTable, KeyPlan>,
    /// Compression level.
    pub level: Level,
    /// Compressing threads.
    pub threads: NonZeroUsize,
    /// Who can read it; nobody in particular when absent: not encrypted.
    pub recipients: Option<Recipients>,
}

impl Recipe {
    /// The usual level, a thread for each core (at most 8), no row sums.
    pub fn new(recipients: Option<Recipients>) -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = NonZeroUsize::new(cores.min(MOST_THREADS)).unwrap_or(NonZeroUsize::MIN);
        Self { rows: false, keys: BTreeMap::new(), level: Level::default(), threads, recipients }
    }
}

/// How far it is; read it from anywhere, at any time.
#[derive(Debug, Default)]
pub struct Progress {
    bytes: AtomicU64,
    rows: AtomicU64,
    stored: AtomicU64,
}

impl Progress {
    /// Bytes of content read so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Rows read so far, where rows are summed.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Bytes handed to the destinations so far.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }
}

/// A stream that got through, whole.
pub struct Flowed {
    /// That the source ended well: commit the uploads with it.
    pub proof: Complete,
    /// Size and SHA-256 of what the source gave.
    pub content: (u64, Digest),
    /// Size and SHA-256 of what the uploads were given.
    pub stored: (u64, Digest),
    /// What each table's rows add up to, where they were summed.
    pub tables: BTreeMap<QualifiedTable, TableSum>,
    /// What the keys of the tables asked for add up to.
    pub keys: BTreeMap<QualifiedTable, KeySums>,
    /// The uploads, ready to be committed, or why one was given up. At least one is ready.
    pub destinations: Vec<(String, Delivered)>,
}

/// Sends `source` through `recipe` to every destination at once. A destination that fails or stalls is given up and
/// aborted without losing the others. When the source fails, all fail, or `stop` is cancelled, every upload is aborted.
pub async fn store(
    source: Box<dyn Source>,
    recipe: Recipe,
    destinations: Vec<Destination>,
    progress: &Arc<Progress>,
    stop: CancellationToken,
) -> Result<Flowed, PipelineError> {
    let (outlets, deliveries) = Outlets::open(destinations, &stop);
    let threads = start(source, recipe, outlets, progress, &stop);
    let work = match threads {
        Ok(threads) => wait(threads, &stop).await,
        Err(error) => Err(error),
    };
    settle(work, deliveries).await
}

/// What came of the stream and of each destination; every upload is aborted unless the stream got through.
async fn settle(
    work: Result<(Read, (u64, Digest)), PipelineError>,
    deliveries: Vec<(String, JoinHandle<Delivered>)>,
) -> Result<Flowed, PipelineError> {
    let mut destinations = Vec::new();
    for (name, delivery) in deliveries {
        destinations.push((name, destination::outcome(delivery).await));
    }
    match work {
        Ok((read, stored)) if destinations.iter().any(|(_, result)| result.is_ok()) => {
            let (tables, keys) = read.sums;
            Ok(Flowed { proof: read.proof, content: read.content, stored, tables, keys, destinations })
        }
        work => Err(failure(work.err(), destinations).await),
    }
}

struct Threads {
    read: oneshot::Receiver<Result<Read, PipelineError>>,
    packed: oneshot::Receiver<Result<(u64, Digest), PipelineError>>,
}

fn start(
    source: Box<dyn Source>,
    recipe: Recipe,
    outlets: Outlets,
    progress: &Arc<Progress>,
    stop: &CancellationToken,
) -> Result<Threads, PipelineError> {
    let (feeder, members) = gzip::belt(recipe.level, recipe.threads).map_err(PipelineError::Threads)?;
    let (packing, reading, stop) = (progress.clone(), progress.clone(), stop.clone());
    let packed = thread::run("pack", move || packer::pack(members, recipe.recipients.as_ref(), outlets, &packing))
        .map_err(PipelineError::Threads)?;
    let rows = recipe.rows.then_some(recipe.keys);
    let read = thread::run("read", move || reader::read(source, feeder, rows, &reading, &stop))
        .map_err(PipelineError::Threads)?;
    Ok(Threads { read, packed })
}

/// Waits for both threads; the reader's error is the one that tells.
async fn wait(threads: Threads, stop: &CancellationToken) -> Result<(Read, (u64, Digest)), PipelineError> {
    let both = async { (threads.packed.await, threads.read.await) };
    tokio::pin!(both);
    let ended = tokio::select! {
        ended = &mut both => Some(ended),
        () = stop.cancelled() => timeout(STOP_GRACE, both).await.ok(),
    };
    match ended {
        None => Err(PipelineError::Stopped),
        Some((Ok(Ok(packed)), Ok(Ok(read)))) => Ok((read, packed)),
        Some(_) if stop.is_cancelled() => Err(PipelineError::Stopped),
        Some((packed, read)) => Err(first_cause(read, packed)),
    }
}

/// A thread that panicked left no answer and counts as abandoned, like one whose neighbour gave up.
fn first_cause<A, B>(
    read: Result<Result<A, PipelineError>, oneshot::error::RecvError>,
    packed: Result<Result<B, PipelineError>, oneshot::error::RecvError>,
) -> PipelineError {
    match (read, packed) {
        (Ok(Err(error)), _) if !matches!(error, PipelineError::Abandoned(_)) => error,
        (_, Ok(Err(error))) => error,
        _ => PipelineError::Abandoned(gzip::Abandoned),
    }
}

/// Aborts what is left and picks the error to tell.
async fn failure(error: Option<PipelineError>, destinations: Vec<(String, Delivered)>) -> PipelineError {
    let mut failed = Vec::new();
    for (name, result) in destinations {
        let result = match result {
            Ok(upload) => upload.abort().await,
            Err(error) => Err(error),
        };
        failed.extend(result.err().map(|error| (name, error)));
    }
    match error {
        Some(error) if !matches!(error, PipelineError::Abandoned(_)) => error,
        _ => PipelineError::NoDestination(failed),
    }
}
