//! Looks through a segment that a copy is about to replay for what would reach out of the copy: tablespaces that are made
//! in directories of somebody else.
//!
//! A record that began in the segment before is read on from there: PostgreSQL keeps that beside it in pg_wal.

use std::path::Path;

use crate::host::OpenFile;
use crate::model::failure::{Failure, FailureKind};
use crate::model::wal::SegmentName;
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_page::{HEADER_BYTES, SegmentHeader};
use crate::postgres::wal_records::{RecordReader, WAL_PAGE_BYTES};
use crate::postgres::wal_tablespaces::{TablespaceMade, tablespace_made};
use crate::steps::blocks::reader_before;

const WINDOW_BYTES: usize = 256 << 10;

/// Errors where replaying `segment`, which is the file `path`, in the data directory `copy` would write into a tablespace
/// that somebody else uses.
pub fn require_within(segment: SegmentName, path: &Path, copy: &Path) -> Result<(), Failure> {
    let unread = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, format!("look through {segment} before it is replayed")).because(error)
    };
    let directory = DataDirectory::read(copy).map_err(|error| unread(error.into()))?;
    let made = tablespaces(segment, path, &directory).map_err(|error| unread(error.into()))?;
    match made.iter().find(|made| made.is_in_use(directory.major, copy)) {
        None => Ok(()),
        Some(stray) => {
            let message = format!(
                "replay {segment}: it makes the tablespace {} at {}, which is in use; replaying it would write into those \
                 files",
                stray.oid,
                stray.path.display()
            );
            Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
                "Recover on another host, to a moment before that, or from a base backup made after it (--backup). Is the \
                 cluster gone that used the directory? Empty it first.",
            ))
        }
    }
}

/// Those that `segment` makes. What cannot be read as records ends the log for PostgreSQL too.
fn tablespaces(segment: SegmentName, path: &Path, directory: &DataDirectory) -> std::io::Result<Vec<TablespaceMade>> {
    let size = directory.segment_size;
    let mut file = OpenFile::open(path, false)?;
    let mut first = [0; HEADER_BYTES];
    file.read_at(&mut first, 0)?;
    let start = segment.start(size).ok_or_else(|| std::io::Error::other("a cluster like this has no such segment"))?;
    let timeline = SegmentHeader::parse(&first).map_or(segment.timeline(), |header| header.timeline);
    let before = reader_before(segment, timeline, size, path, &|_| None).filter(|reader| reader.fits(&first));
    let mut reader = before.unwrap_or_else(|| RecordReader::new(size, start));
    let (mut found, mut window) = (Vec::new(), vec![0; WINDOW_BYTES]);
    loop {
        let filled = file.fill(&mut window)?;
        if filled == 0 {
            return Ok(found);
        }
        for page in window[..filled].chunks(WAL_PAGE_BYTES) {
            let read = reader.page(page, &mut |record| found.extend(tablespace_made(&record).ok().flatten()));
            if read.is_err() {
                return Ok(found);
            }
        }
    }
}
