//! What a repository holds of one timeline, from a listing alone: no record is opened.
//!
//! Memory: one range for each gap, and one name for each thing that is not in order.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::error::CatalogError;
use crate::catalog::names::wal::{self as names, WalKey};
use crate::catalog::repository::Repository;
use crate::model::key::ObjectKey;
use crate::model::lsn::Timeline;
use crate::model::wal::{SegmentName, SegmentRange, SegmentRanges, SegmentSize, WalFile, gaps};
use crate::storage::ObjectMeta;

/// What is stored of one timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The timeline.
    pub timeline: Timeline,
    /// The segments' size that the ranges were made with.
    pub size: SegmentSize,
    /// Whole segments with record and bytes, ascending; each range without a gap.
    pub ranges: Vec<SegmentRange>,
    /// Partial segments and backup notes.
    pub others: Vec<WalFile>,
    /// Bytes without a record: on their way, or left by a push that died.
    pub unrecorded: Vec<(ObjectKey, DateTime<Utc>)>,
    /// Records without bytes: somebody deleted them.
    pub without_bytes: Vec<WalFile>,
    /// Names that are not ours.
    pub foreign: Vec<String>,
    /// Bytes stored in all, records included.
    pub bytes: u64,
    /// When the last whole segment was stored, by the store's clock.
    pub newest: Option<DateTime<Utc>>,
}

/// How a segment stands in a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// Recorded, with bytes.
    Whole,
    /// Bytes without a record.
    Begun,
    /// Nothing that counts.
    Missing,
}

impl Coverage {
    /// The segments that are missing between the first and the last.
    pub fn gaps(&self) -> Vec<SegmentRange> {
        gaps(&self.ranges, self.size)
    }

    /// Whether `segment` is stored whole.
    pub fn holds(&self, segment: SegmentName) -> bool {
        let after = self.ranges.partition_point(|range| range.first <= segment);
        after > 0 && self.ranges[after - 1].contains(segment)
    }

    /// How `segment` stands.
    pub fn standing(&self, segment: SegmentName) -> Stored {
        let begun = |key: &ObjectKey| WalKey::of(key).is_some_and(|key| key.file() == WalFile::Segment(segment));
        match self.holds(segment) {
            true => Stored::Whole,
            false if self.unrecorded.iter().any(|(key, _)| begun(key)) => Stored::Begun,
            false => Stored::Missing,
        }
    }

    /// The last segment from `first` on without a gap; nothing when `first` is not stored.
    pub fn contiguous_from(&self, first: SegmentName) -> Option<SegmentName> {
        let range = self.ranges.iter().find(|range| range.contains(first))?;
        Some(range.last)
    }

    /// The last segment stored.
    pub fn last(&self) -> Option<SegmentName> {
        self.ranges.last().map(|range| range.last)
    }
}

impl Repository {
    /// What is stored of `timeline`, whose segments have `size`.
    pub async fn wal_coverage(&self, timeline: Timeline, size: SegmentSize) -> Result<Coverage, CatalogError> {
        let mut reading = Reading::new(timeline, size);
        let mut from = None;
        loop {
            let page = self.storage.list(&names::timeline(timeline), from.as_ref()).await?;
            reading.coverage.foreign.extend(page.foreign);
            page.objects.into_iter().for_each(|object| reading.take(object));
            match page.next {
                Some(next) => from = Some(next),
                None => return Ok(reading.finish()),
            }
        }
    }
}

/// A listing on its way; everything about one segment comes in a row.
struct Reading {
    coverage: Coverage,
    ranges: SegmentRanges,
    current: Option<SegmentName>,
    files: BTreeMap<WalFile, Held>,
}

#[derive(Default)]
struct Held {
    recorded: Option<DateTime<Utc>>,
    objects: Vec<(ObjectKey, DateTime<Utc>)>,
}

impl Reading {
    fn new(timeline: Timeline, size: SegmentSize) -> Self {
        let coverage = Coverage {
            timeline,
            size,
            ranges: Vec::new(),
            others: Vec::new(),
            unrecorded: Vec::new(),
            without_bytes: Vec::new(),
            foreign: Vec::new(),
            bytes: 0,
            newest: None,
        };
        Self { coverage, ranges: SegmentRanges::new(size), current: None, files: BTreeMap::new() }
    }

    fn take(&mut self, object: ObjectMeta) {
        let Some(key) = WalKey::of(&object.key) else { return self.coverage.foreign.push(object.key.to_string()) };
        self.coverage.bytes += object.size;
        if self.current != key.file().segment() {
            self.close();
            self.current = key.file().segment();
        }
        let held = self.files.entry(key.file()).or_default();
        match key {
            WalKey::Record(_) => held.recorded = Some(object.modified),
            WalKey::Object(_) => held.objects.push((object.key, object.modified)),
        }
    }

    fn close(&mut self) {
        for (file, Held { recorded, objects }) in std::mem::take(&mut self.files) {
            match (recorded, objects.is_empty(), file) {
                (Some(at), false, WalFile::Segment(segment)) => {
                    self.ranges.push(segment);
                    self.coverage.newest = self.coverage.newest.max(Some(at));
                }
                (Some(_), false, _) => self.coverage.others.push(file),
                (Some(_), true, _) => self.coverage.without_bytes.push(file),
                (None, ..) => self.coverage.unrecorded.extend(objects),
            }
        }
    }

    fn finish(mut self) -> Coverage {
        self.close();
        Coverage { ranges: self.ranges.finish(), ..self.coverage }
    }
}
