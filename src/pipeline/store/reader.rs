//! The reader's thread: source -> content digest and row sums -> blocks for the compressors.
//!
//! Reads straight into the block that will be compressed: the bytes are copied once, by the kernel.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::Progress;
use crate::host::{Complete, FailPoint, Source, SourceError, reach};
use crate::model::digest::{Digest, Hasher, TableSum};
use crate::model::table::QualifiedTable;
use crate::pipeline::PipelineError;
use crate::pipeline::archive::{ArchiveError, ArchiveReader, RowSums};
use crate::pipeline::gzip::{Feeder, MEMBER_BYTES};

/// A source read to its end.
pub(super) struct Read {
    pub(super) proof: Complete,
    pub(super) content: (u64, Digest),
    pub(super) tables: BTreeMap<QualifiedTable, TableSum>,
}

/// Reads `source` to its end. Only when it ended well is the stream ended well.
pub(super) fn read(
    mut source: Box<dyn Source>,
    mut feeder: Feeder,
    rows: bool,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Read, PipelineError> {
    let mut hasher = Hasher::default();
    let mut size = 0;
    let mut archive = rows.then(Archive::default);
    loop {
        if stop.is_cancelled() {
            return Err(PipelineError::Stopped);
        }
        let mut block = feeder.block()?;
        let bytes = block.fill(&mut source).map_err(|error| SourceError::io("read the source", error))?;
        let last = bytes.len() < MEMBER_BYTES;
        pass(bytes.len(), size)?;
        hasher.update(bytes);
        size += bytes.len() as u64;
        if let Some(archive) = &mut archive {
            archive.take(bytes)?;
            progress.rows.store(archive.sums.rows(), Ordering::Relaxed);
        }
        progress.bytes.store(size, Ordering::Relaxed);
        if !bytes.is_empty() {
            feeder.push(block)?;
        }
        if last {
            break;
        }
    }
    reach(FailPoint::DumpStreamEnd).map_err(|error| SourceError::io("end the source", error))?;
    let proof = source.finish()?;
    let tables = archive.map(Archive::finish).transpose()?.unwrap_or_default();
    feeder.finish()?;
    Ok(Read { proof, content: (size, hasher.finish()), tables })
}

/// The fail points of a stream that goes on: its first bytes, and every block after them.
fn pass(count: usize, before: u64) -> Result<(), SourceError> {
    let reached = match (count, before) {
        (0, _) => Ok(()),
        (_, 0) => reach(FailPoint::DumpFirstByte),
        _ => reach(FailPoint::DumpMidStream),
    };
    reached.map_err(|error| SourceError::io("read the source", error))
}

#[derive(Default)]
struct Archive {
    reader: ArchiveReader,
    sums: RowSums,
}

impl Archive {
    fn take(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while let Some(event) = self.reader.next(&mut bytes)? {
            self.sums.take(event)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<BTreeMap<QualifiedTable, TableSum>, ArchiveError> {
        self.reader.finish()?;
        Ok(self.sums.finish())
    }
}
