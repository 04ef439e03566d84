//! The reader's thread: source -> row sums -> content digest -> blocks for the compressors.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;

use tokio_util::sync::CancellationToken;

use super::Progress;
use super::content::Content;
use crate::host::{Complete, FailPoint, Source, SourceError, reach};
use crate::model::digest::Digest;
use crate::model::table::QualifiedTable;
use crate::pipeline::PipelineError;
use crate::pipeline::archive::{ArchiveReader, Event, KeyPlan, RowSums, Sums};
use crate::pipeline::gzip::Feeder;

/// Bytes of an archive looked at in one go: small enough to stay in a core's own cache until they are copied.
const WINDOW_BYTES: usize = 256 << 10;

/// A source read to its end.
pub(super) struct Read {
    pub(super) proof: Complete,
    pub(super) content: (u64, Digest),
    pub(super) sums: Sums,
}

/// Reads `source` to its end. Only when it ended well is the stream ended well.
pub(super) fn read(
    mut source: Box<dyn Source>,
    feeder: Feeder,
    rows: Option<BTreeMap<QualifiedTable, KeyPlan>>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Read, PipelineError> {
    let mut content = Content::new(feeder, progress)?;
    let sums = match rows {
        Some(keys) => copy_archive(source.as_mut(), RowSums::with_keys(keys), &mut content, progress, stop)?,
        None => {
            while content.fill(&mut source)? {
                require_going_on(stop)?;
            }
            Sums::default()
        }
    };
    reach(FailPoint::DumpStreamEnd).map_err(|error| SourceError::io("end the source", error))?;
    let proof = source.finish()?;
    Ok(Read { proof, content: content.finish()?, sums })
}

pub(super) fn require_going_on(stop: &CancellationToken) -> Result<(), PipelineError> {
    match stop.is_cancelled() {
        true => Err(PipelineError::Stopped),
        false => Ok(()),
    }
}

/// Copies a pg_dump archive, joining the rows of each table, and sums them up.
fn copy_archive(
    source: &mut dyn Source,
    mut sums: RowSums,
    content: &mut Content<'_>,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<Sums, PipelineError> {
    let mut archive = ArchiveReader::default();
    let mut window = vec![0; WINDOW_BYTES];
    loop {
        require_going_on(stop)?;
        let count = match source.read(&mut window) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(SourceError::io("read the source", error).into()),
        };
        take(&window[..count], &mut archive, &mut sums, content)?;
        progress.rows.store(sums.rows(), Ordering::Relaxed);
    }
    archive.finish()?;
    Ok(sums.finish())
}

/// Takes one window. What is not a table's rows is copied as it is; the lengths between rows are made anew.
fn take(
    mut window: &[u8],
    archive: &mut ArchiveReader,
    sums: &mut RowSums,
    content: &mut Content<'_>,
) -> Result<(), PipelineError> {
    loop {
        let (before, was_in_rows) = (window, archive.is_in_rows());
        let event = archive.next(&mut window)?;
        let consumed = &before[..before.len() - window.len()];
        let Some(event) = event else {
            return if was_in_rows { Ok(()) } else { content.write(consumed) };
        };
        match &event {
            Event::Rows(bytes) => content.rows(bytes, archive.integer_bytes())?,
            Event::TableEnd => content.end_rows(archive.integer_bytes())?,
            _ => content.write(consumed)?,
        }
        sums.take(event)?;
    }
}
