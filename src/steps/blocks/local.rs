//! The summaries on this machine: one small file for each segment, below the agent's state directory.
//!
//! `blocks/<system identifier>/<timeline>/<segment>.blocks.zst`. Written without waiting for the disk, because each bears
//! a digest: one that a power cut damaged counts as missing, and what is missing is made again from pg_wal.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use crate::host::{durable, files};
use crate::model::blocks::{BlockChanges, BlockSummary};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::timeline::TimelineHistory;
use crate::model::wal::{SegmentName, SegmentSize};
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_records::place;
use crate::steps::blocks::summarize::{Read, history_beside, summarize};

const ENDING: &str = ".blocks.zst";
const LEVEL: i32 = 1;
/// Largest summary, packed and not: far more than the references of a segment of 1 GiB need.
const PACKED_LIMIT: u64 = 256 << 20;
const LIMIT: u64 = 1 << 30;

/// Summaries of all clusters and timelines. Cheap to clone.
#[derive(Clone, Debug)]
pub struct BlockStore {
    root: PathBuf,
}

impl BlockStore {
    /// The store below the state directory `state`.
    pub fn below(state: &Path) -> Self {
        Self { root: state.join("blocks") }
    }

    fn folder(&self, system: SystemId, timeline: Timeline) -> PathBuf {
        self.root.join(system.to_string()).join(format!("{:08X}", timeline.0))
    }

    fn path(&self, system: SystemId, segment: SegmentName) -> PathBuf {
        self.folder(system, segment.timeline()).join(format!("{segment}{ENDING}"))
    }

    /// Whether there is one of `segment`, whatever it is worth.
    pub fn has(&self, system: SystemId, segment: SegmentName) -> bool {
        self.path(system, segment).exists()
    }

    /// Keeps the summary of `segment`.
    pub fn put(&self, segment: SegmentName, summary: &BlockSummary) -> Result<(), Failure> {
        let path = self.path(summary.system, segment);
        let failed = |error: io::Error| {
            Failure::new(FailureKind::Failed, format!("keep the block summary {}", path.display())).because(error)
        };
        let packed = zstd::bulk::compress(&summary.to_bytes(), LEVEL).map_err(failed)?;
        let folder = self.folder(summary.system, segment.timeline());
        files::make_directories(&folder, None).map_err(failed)?;
        files::replace_quickly(&path, &packed).map_err(failed)
    }

    /// The summary of `segment`; nothing where there is none, or a damaged one.
    pub fn read(&self, system: SystemId, segment: SegmentName) -> Option<BlockSummary> {
        let path = self.path(system, segment);
        let packed = durable::read_bounded(&path, PACKED_LIMIT).ok()?;
        let mut bytes = Vec::new();
        let unpacked =
            zstd::Decoder::new(packed.as_slice()).and_then(|unpacker| unpacker.take(LIMIT).read_to_end(&mut bytes));
        let summary = unpacked
            .map_err(|error| error.to_string())
            .and_then(|_| BlockSummary::parse(&bytes).map_err(|error| error.to_string()));
        match summary {
            Ok(summary) if (summary.system, summary.timeline) == (system, segment.timeline()) => Some(summary),
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(path = %path.display(), error, "a block summary is damaged and counts as missing");
                None
            }
        }
    }

    /// Sums up the segment `segment`, which is the file `path` of the cluster in `directory`: records that begin before
    /// `until`.
    pub fn summarize(
        &self,
        segment: SegmentName,
        path: &Path,
        directory: &DataDirectory,
        until: Lsn,
    ) -> Result<Read, Failure> {
        let tail = |before| self.read(directory.system_identifier, before)?.tail;
        summarize(segment, path, directory, until, &tail)
    }

    /// Sums up a segment that lies in a pg_wal, and keeps it when it is whole.
    pub fn add(&self, segment: SegmentName, path: &Path, directory: &DataDirectory) -> Result<BlockSummary, Failure> {
        let read = self.summarize(segment, path, directory, Lsn(u64::MAX))?;
        if read.whole {
            self.put(segment, &read.summary)?;
        }
        Ok(read.summary)
    }

    /// Removes the summaries of segments of `system` that end before `from`, on every timeline.
    pub fn prune(&self, system: SystemId, from: Lsn, size: SegmentSize) {
        let Ok(timelines) = durable::names_in(&self.root.join(system.to_string())) else { return };
        for timeline in timelines {
            let folder = self.root.join(system.to_string()).join(timeline);
            let names = durable::names_in(&folder).unwrap_or_default();
            let old = names.iter().filter(|name| {
                let segment = name.strip_suffix(ENDING).and_then(|name| name.parse::<SegmentName>().ok());
                segment.and_then(|segment| segment.number(size)).is_some_and(|number| number < size.number_at(from))
            });
            for name in old {
                if let Err(error) = files::remove_if_there(&folder.join(name)) {
                    tracing::debug!(name, %error, "an old block summary stays behind");
                }
            }
        }
    }

    /// Segments of the log from `from` to `to`, on the way to the timeline of `history`, that have no summary yet.
    pub fn lacking(
        &self,
        history: &TimelineHistory,
        (from, to): (Lsn, Lsn),
        (system, size): (SystemId, SegmentSize),
    ) -> usize {
        let segments = (size.number_at(from)..=size.number_at(to)).map(|number| history.segment(number, size));
        segments.filter(|segment| !self.has(system, *segment)).count()
    }

    /// What the log from `from` to `to` changes on the way to the timeline of `history`, in the data directory
    /// `directory`: from summaries, and from pg_wal where there are none. Errors with the reason, for people, why it is
    /// not known.
    pub fn changes(
        &self,
        history: &TimelineHistory,
        (from, to): (Lsn, Lsn),
        directory: &DataDirectory,
    ) -> Result<BlockChanges, String> {
        let size = directory.segment_size;
        let (from, to) = (place(from, size), place(to, size));
        let mut changes = BlockChanges::default();
        let (mut proven, mut reached) = (from, from);
        let mut number = size.number_at(from);
        while proven < to {
            let segment = history.segment(number, size);
            let is_last = number >= size.number_at(to);
            let summary = self.summary(segment, directory, if is_last { to } else { Lsn(u64::MAX) })?;
            if !summary.joins(proven, reached) {
                return Err(format!("the log between {proven} and {} cannot be read", summary.from));
            }
            (proven, reached) = (proven.max(summary.proven), summary.to);
            changes.merge(summary.changes);
            if is_last && proven < to {
                return Err(format!("the log cannot be read between {proven} and {to}"));
            }
            number += 1;
        }
        match changes.unusable() {
            Some(reason) => Err(reason.to_owned()),
            None => Ok(changes),
        }
    }

    /// That of one segment, of which records that begin at `until` or later are not needed.
    fn summary(&self, segment: SegmentName, directory: &DataDirectory, until: Lsn) -> Result<BlockSummary, String> {
        if let Some(summary) = self.read(directory.system_identifier, segment) {
            return Ok(summary);
        }
        let path = directory.path.join("pg_wal").join(segment.to_string());
        let made = match until {
            Lsn(u64::MAX) => self.add(segment, &path, directory),
            until => self.summarize(segment, &path, directory, until).map(|read| read.summary),
        };
        made.map_err(|error| match path.exists() {
            false => format!("the segment {segment} has no block summary, and pg_wal does not have it any more"),
            true => {
                format!("the segment {segment} has no block summary, and none can be made: {}", error.full_message())
            }
        })
    }
}

/// The history of `timeline`, as the data directory `directory` knows it; nothing where its file is missing.
pub fn history_in(directory: &DataDirectory, timeline: Timeline) -> Option<TimelineHistory> {
    match timeline {
        Timeline(1) => Some(TimelineHistory::root(timeline)),
        timeline => history_beside(&directory.path.join("pg_wal").join("history"), timeline),
    }
}
