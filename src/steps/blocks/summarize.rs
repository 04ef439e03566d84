//! One segment of the log, read and summed up.
//!
//! The beginning of the record that a segment begins in the middle of comes from the summary of the segment before, or from
//! that itself where it still lies beside it.

use std::io;
use std::path::Path;

use crate::host::OpenFile;
use crate::host::durable::read_bounded;
use crate::model::blocks::{BlockChanges, BlockSummary, RecordTail};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, Timeline};
use crate::model::timeline::TimelineHistory;
use crate::model::wal::{SegmentName, SegmentSize, WalFile};
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_page::{self, SegmentHeader};
use crate::postgres::wal_records::{RecordReader, WAL_PAGE_BYTES, WalFault, begins_a_record};
use crate::postgres::{wal_blocks, wal_records};

/// Bytes read in one go.
const WINDOW_BYTES: usize = 256 << 10;
const PAGE: u64 = WAL_PAGE_BYTES as u64;
/// Largest history, in bytes: thousands of timelines.
const HISTORY_LIMIT: u64 = 1 << 20;

/// A segment that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Read {
    /// What it says.
    pub summary: BlockSummary,
    /// Whether it was read to its end.
    pub whole: bool,
}

/// What is known of the segments before one.
pub type KnownTail<'a> = &'a dyn Fn(SegmentName) -> Option<RecordTail>;

/// Sums up the segment `segment`, which is the file `path` of the cluster in `directory`: records that begin before
/// `until`, since it may still be written.
pub fn summarize(
    segment: SegmentName,
    path: &Path,
    directory: &DataDirectory,
    until: Lsn,
    known: KnownTail<'_>,
) -> Result<Read, Failure> {
    let failed = |error| Failure::new(FailureKind::Failed, format!("sum up the segment {segment}")).because(error);
    let size = directory.segment_size;
    let start =
        segment.start(size).ok_or_else(|| failed(io::Error::other("a cluster like this has no such segment")))?;
    let mut file = OpenFile::open(path, false).map_err(failed)?;
    let mut first = [0; wal_page::HEADER_BYTES];
    file.read_at(&mut first, 0).map_err(failed)?;
    let history = || history_beside(path, segment.timeline());
    wal_page::check(segment, &first, file.size(), directory, history).map_err(|error| {
        Failure::new(FailureKind::Integrity, format!("sum up the segment {segment}")).because(error)
    })?;
    let before = SegmentHeader::parse(&first)
        .and_then(|header| before(segment, header.timeline, size, path, known).filter(|reader| reader.fits(&first)));
    let mut reader = before.unwrap_or_else(|| RecordReader::new(size, start));
    let from = reader.from().map(|_| reader.to());
    let mut changes = BlockChanges::default();
    let read = read_segment(&mut file, &mut reader, until, &mut changes).map_err(failed)?;
    if let Err(fault) = &read
        && reader.to() < until
    {
        tracing::debug!(%segment, %fault, "the log cannot be read to the segment's end");
    }
    let (proven, mut to) = (reader.to(), reader.to());
    // Of a record that goes on in the next segment the beginning is enough, where it says all that is to be known.
    if let (Ok(()), Some(record)) = (&read, reader.unfinished())
        && record.start < until
        && wal_blocks::note(&record, &mut changes).is_ok()
    {
        to = record.end;
    }
    // Nothing begins in a segment that lies within one record.
    let from = from.or_else(|| reader.from()).unwrap_or(to);
    let (system, timeline) = (directory.system_identifier, segment.timeline());
    let (proven, to) = (proven.max(from.min(to)), to.max(from));
    let tail = reader.tail().filter(|_| read.is_ok());
    Ok(Read { summary: BlockSummary { system, timeline, from, proven, to, changes, tail }, whole: read.is_ok() })
}

/// Reads pages until `until` is passed or the file ends; a fault ends it early.
fn read_segment(
    file: &mut OpenFile,
    reader: &mut RecordReader,
    until: Lsn,
    changes: &mut BlockChanges,
) -> io::Result<Result<(), WalFault>> {
    let mut window = vec![0; WINDOW_BYTES];
    let mut unclear = None;
    loop {
        let filled = file.fill(&mut window)?;
        if filled == 0 {
            return Ok(Ok(()));
        }
        for page in window[..filled].chunks(WAL_PAGE_BYTES) {
            let read = reader.page(page, &mut |record| {
                if record.start < until && unclear.is_none() && wal_blocks::note(&record, changes).is_err() {
                    unclear = Some(record.start);
                }
            });
            if let Some(at) = unclear {
                changes.refuse(format!("the record at {at} cannot be understood"));
                return Ok(Err(WalFault { at, what: "a record cannot be understood" }));
            }
            match read {
                Err(fault) => return Ok(Err(fault)),
                Ok(()) if reader.to() >= until => return Ok(Ok(())),
                Ok(()) => {}
            }
        }
    }
}

/// A reader that has read the end of the segment before `segment`; nothing where neither its summary nor the segment
/// itself says what goes on behind it.
pub(in crate::steps) fn before(
    segment: SegmentName,
    first_page: Timeline,
    size: SegmentSize,
    path: &Path,
    known: KnownTail<'_>,
) -> Option<RecordReader> {
    let number = segment.number(size)?.checked_sub(1)?;
    let start = Lsn((number + 1) * size.bytes());
    let names = [segment.timeline(), first_page].map(|timeline| SegmentName::of_number(timeline, number, size));
    let from_summary = |name: &SegmentName| RecordReader::resume(size, start, &known(*name)?);
    let from_file = |name: &SegmentName| read_tail(&path.with_file_name(name.to_string()), number, size);
    names.iter().find_map(from_summary).or_else(|| names.iter().find_map(from_file))
}

fn read_tail(path: &Path, number: u64, size: SegmentSize) -> Option<RecordReader> {
    let file = OpenFile::open(path, false).ok().filter(|file| file.size() == size.bytes())?;
    let mut page = vec![0; WAL_PAGE_BYTES];
    let pages = size.bytes() / PAGE;
    let first = (0..pages).rev().find(|at| {
        let mut header = [0; 24];
        file.read_at(&mut header, at * PAGE).is_ok() && begins_a_record(&header)
    })?;
    let mut reader = RecordReader::new(size, Lsn(number * size.bytes() + first * PAGE));
    for at in first..pages {
        file.read_at(&mut page, at * PAGE).ok()?;
        // After a switch the pages are empty, and nothing crosses into the next segment.
        reader.page(&page, &mut |_| {}).ok()?;
    }
    let end = wal_records::place(Lsn((number + 1) * size.bytes()), size);
    (reader.tail().is_some() || reader.to() == end).then_some(reader)
}

/// The history of `timeline` that lies beside the segment `path`.
pub(super) fn history_beside(path: &Path, timeline: Timeline) -> Option<TimelineHistory> {
    let path = path.with_file_name(WalFile::History(timeline).to_string());
    let text = read_bounded(&path, HISTORY_LIMIT).ok()?;
    TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)).ok()
}
