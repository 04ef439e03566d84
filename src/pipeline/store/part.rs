//! One object on one thread: source -> content digest -> zstd, gzip or lz4 -> OpenPGP -> stored digest -> destinations.
//!
//! For work that comes in many objects at once (the parts of a base backup): several of these side by side use all cores
//! without handing bytes from thread to thread, and memory is that of the parts in flight.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::destination::{Destination, Outlets};
use super::packer::{Pieces, failed};
use super::reader::{Read, require_going_on};
use super::{Flowed, Progress, STOP_GRACE, settle};
use crate::host::{FailPoint, Source, SourceError, reach};
use crate::model::digest::{Digest, Hasher};
use crate::pipeline::archive::Sums;
use crate::pipeline::gzip::Abandoned;
use crate::pipeline::openpgp::Recipients;
use crate::pipeline::pack::{Codec, Packer};
use crate::pipeline::{PipelineError, thread};

/// What to do with the bytes of one part.
#[derive(Clone, Debug)]
pub struct PartRecipe {
    /// How it is compressed.
    pub codec: Codec,
    /// Who can read it; nobody in particular when absent: not encrypted.
    pub recipients: Option<Recipients>,
}

/// Sends `source` through `recipe` to every destination at once, like [`super::store`], on a single thread. `progress`
/// may be shared with other parts: it is added to.
pub async fn store_part(
    source: Box<dyn Source>,
    recipe: PartRecipe,
    destinations: Vec<Destination>,
    progress: &Arc<Progress>,
    stop: CancellationToken,
) -> Result<Flowed, PipelineError> {
    let (outlets, deliveries) = Outlets::open(destinations, &stop);
    let (adding, stopping) = (progress.clone(), stop.clone());
    let started = thread::run("part", move || flow(source, &recipe, outlets, &adding, &stopping));
    let work = match started {
        Ok(done) => {
            tokio::pin!(done);
            let ended = tokio::select! {
                ended = &mut done => Some(ended),
                () = stop.cancelled() => tokio::time::timeout(STOP_GRACE, done).await.ok(),
            };
            match ended {
                Some(Ok(work)) => work,
                Some(Err(_)) => Err(PipelineError::Abandoned(Abandoned)),
                None => Err(PipelineError::Stopped),
            }
        }
        Err(error) => Err(PipelineError::Threads(error)),
    };
    settle(work, deliveries).await
}

fn flow(
    mut source: Box<dyn Source>,
    recipe: &PartRecipe,
    outlets: Outlets,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(Read, (u64, Digest)), PipelineError> {
    // What a destination has taken is told part by part by the caller; the bytes of content go into the common count.
    let own = Progress::default();
    let mut pieces = Pieces::new(outlets, &own);
    let content = match &recipe.recipients {
        None => compress(source.as_mut(), recipe.codec, &mut pieces, progress, stop)?,
        Some(recipients) => {
            let mut message = recipients.encrypt(&mut pieces)?;
            let content = compress(source.as_mut(), recipe.codec, &mut message, progress, stop)?;
            message.finalize().map_err(|error| failed(error.into()))?;
            content
        }
    };
    pieces.flush_piece().map_err(|error| failed(error.into()))?;
    if let Some(recipients) = &recipe.recipients {
        recipients.check(&pieces.first)?;
    }
    let proof = source.finish()?;
    let stored = pieces.finish();
    progress.stored.fetch_add(stored.0, Ordering::Relaxed);
    Ok((Read { proof, content, sums: Sums::default() }, stored))
}

/// Compresses all of `source` into `sink`. Gives the size and digest of what was read.
fn compress(
    source: &mut dyn Source,
    codec: Codec,
    sink: &mut (dyn Write + Send + Sync),
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(u64, Digest), PipelineError> {
    let unpacked = |error: io::Error| failed(error.into());
    let mut packer = Packer::new(codec, sink).map_err(unpacked)?;
    let (mut hasher, mut size) = (Hasher::default(), 0);
    loop {
        require_going_on(stop)?;
        let room = packer.room();
        let count = match source.read(room) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(SourceError::io("read the source", error).into()),
        };
        reach(FailPoint::PartMidStream).map_err(|error| SourceError::io("read the source", error))?;
        hasher.update(&room[..count]);
        size += count as u64;
        progress.bytes.fetch_add(count as u64, Ordering::Relaxed);
        packer.take(count).map_err(unpacked)?;
    }
    packer.finish().map_err(unpacked)?;
    Ok((size, hasher.finish()))
}
