//! What can be reached: from which base backup, along which timeline, over which segments, up to which instant.
//!
//! The reach of a base backup is the log from its start without a gap. The newest segment's record says when it was
//! stored, and everything committed by then and archived is in it: that instant ends the window.

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, Repository};
use crate::model::base::BaseRecord;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, Timeline};
use crate::model::timeline::{TimelineHistory, TimelineTree};
use crate::model::wal::{SegmentName, SegmentSize, WalFile};
use crate::steps::wal::{Fetched, WalDoors, fetch_bytes};

use crate::catalog::wal::Coverage;

/// The timelines of one repository: where each comes from and which segments of it are stored.
pub(super) struct Timelines {
    tree: TimelineTree,
    coverages: Vec<Coverage>,
    size: SegmentSize,
}

/// How far one base backup reaches along one timeline.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The earliest instant: when the backup ended.
    pub from: DateTime<Utc>,
    /// The latest: when the last segment without a gap was stored.
    pub until: DateTime<Utc>,
    /// The first segment that recovery reads.
    pub first: SegmentName,
    /// The last one without a gap.
    pub last: SegmentName,
    /// The position after it.
    pub end: Lsn,
    /// How many there are.
    pub segments: u64,
    /// The segment that is missing although later ones are there.
    pub gap: Option<SegmentName>,
}

impl Timelines {
    /// Reads what `repository` holds of the log, whose segments have `size`.
    pub(super) async fn read(
        repository: &Repository,
        doors: &WalDoors,
        size: SegmentSize,
        now: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let (mut tree, mut coverages) = (TimelineTree::default(), Vec::new());
        let mut timelines = repository.wal_timelines().await?;
        timelines.sort_unstable();
        for timeline in timelines {
            coverages.push(repository.wal_coverage(timeline, size).await?);
            let file = WalFile::History(timeline);
            if timeline.0 < 2 {
                continue;
            }
            if let Fetched::There(bytes) = fetch_bytes(file, None, doors, now).await? {
                let text = String::from_utf8_lossy(&bytes);
                let broken =
                    |error: crate::model::timeline::BadHistory| Failure::new(FailureKind::Integrity, error.to_string());
                tree.insert(TimelineHistory::parse(timeline, &text).map_err(broken)?).map_err(broken)?;
            }
        }
        Ok(Self { tree, coverages, size })
    }

    /// The timelines that a backup which ended at `stop` on `timeline` can be recovered to, newest first.
    pub(super) fn reachable(&self, timeline: Timeline, stop: Lsn) -> Vec<Timeline> {
        let on_the_way = |candidate: &Timeline| {
            let history = self.tree.history(*candidate);
            *candidate == timeline || !history.ancestors().is_empty() && history.reaches(timeline, stop)
        };
        let mut found: Vec<Timeline> =
            self.coverages.iter().map(|coverage| coverage.timeline).filter(on_the_way).collect();
        if !found.contains(&timeline) {
            found.push(timeline);
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    /// How far `base` reaches along `timeline`; nothing where not even its own log is there.
    pub(super) async fn reach(
        &self,
        repository: &Repository,
        base: &BaseRecord,
        timeline: Timeline,
        now: DateTime<Utc>,
    ) -> Result<Option<Reach>, Failure> {
        let history = self.tree.history(timeline);
        let first = self.size.number_at(base.start);
        let needed = base.segments().and_then(|range| range.last.number(self.size)).unwrap_or(first);
        let mut next = first;
        while self.holds(history.segment(next, self.size)) {
            next += 1;
        }
        if next <= needed {
            return Ok(None);
        }
        let last = history.segment(next - 1, self.size);
        let recorded = repository.wal_record(WalFile::Segment(last), now).await?;
        let Some(recorded) = recorded else { return Ok(None) };
        let later = |coverage: &Coverage| {
            let number = coverage.last().and_then(|segment| segment.number(self.size));
            number.is_some_and(|number| {
                number >= next && history.segment(number, self.size).timeline() == coverage.timeline
            })
        };
        let gap = self.coverages.iter().any(later).then(|| history.segment(next, self.size));
        Ok(Some(Reach {
            from: base.stopped,
            until: recorded.recorded.max(base.stopped),
            first: history.segment(first, self.size),
            last,
            end: Lsn(next * self.size.bytes()),
            segments: next - first,
            gap,
        }))
    }

    fn holds(&self, segment: SegmentName) -> bool {
        self.coverages.iter().any(|coverage| coverage.timeline == segment.timeline() && coverage.holds(segment))
    }
}

/// A base backup of `artifacts` that may be restored from.
pub(super) fn usable(artifact: &Artifact) -> Option<&BaseRecord> {
    artifact.manifest.base.as_ref().filter(|_| artifact.damaged.is_none())
}
