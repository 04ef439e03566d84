//! The records of one segment, in order, as far as they can be read.
//!
//! A record that began in the segment before is read on from there: PostgreSQL keeps that beside it in pg_wal.

use std::io;
use std::path::Path;

use crate::host::OpenFile;
use crate::model::wal::SegmentName;
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_page::{HEADER_BYTES, SegmentHeader};
use crate::postgres::wal_records::{Record, RecordReader, WAL_PAGE_BYTES};
use crate::steps::blocks::reader_before;

const WINDOW_BYTES: usize = 256 << 10;

/// Shows the records that end in `segment`, which is the file `path` of the cluster of `directory`, to `visit`. What cannot
/// be read as records ends the log for PostgreSQL too.
pub(super) fn each_record(
    segment: SegmentName,
    path: &Path,
    directory: &DataDirectory,
    visit: &mut dyn FnMut(Record<'_>),
) -> io::Result<()> {
    let size = directory.segment_size;
    let mut file = OpenFile::open(path, false)?;
    let mut first = [0; HEADER_BYTES];
    file.read_at(&mut first, 0)?;
    let start = segment.start(size).ok_or_else(|| io::Error::other("a cluster like this has no such segment"))?;
    let timeline = SegmentHeader::parse(&first).map_or(segment.timeline(), |header| header.timeline);
    let before = reader_before(segment, timeline, size, path, &|_| None).filter(|reader| reader.fits(&first));
    let mut reader = before.unwrap_or_else(|| RecordReader::new(size, start));
    let mut window = vec![0; WINDOW_BYTES];
    loop {
        let filled = file.fill(&mut window)?;
        if filled == 0 {
            return Ok(());
        }
        for page in window[..filled].chunks(WAL_PAGE_BYTES) {
            if reader.page(page, visit).is_err() {
                return Ok(());
            }
        }
    }
}
