//! The archived WAL of one repository: what is stored of which timeline, where timelines come from, and what a base backup
//! can be followed to over it.
//!
//! From listings and records alone, no key is needed. The reach of a base backup is the log from its start without a gap.
//! The newest segment's record says when it was stored, and everything committed by then and archived is in it: that
//! instant ends the window.

use chrono::{DateTime, Utc};

use crate::catalog::wal::Coverage;
use crate::catalog::{CatalogError, CatalogErrorKind, Repository};
use crate::model::base::BaseRecord;
use crate::model::lsn::{Lsn, Timeline};
use crate::model::wal::{SegmentName, WalFile};
use crate::model::wal_retention::{Place, Timelines};

/// What a repository holds of the WAL.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// The timelines.
    pub timelines: Timelines,
    /// What is stored of each, ascending.
    pub coverages: Vec<Coverage>,
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

impl Archive {
    /// Reads what `repository` holds.
    pub async fn read(repository: &Repository, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        let mut coverages = Vec::new();
        for timeline in repository.wal_timelines().await? {
            if let Some(size) = repository.wal_segment_size(timeline, now).await? {
                coverages.push(repository.wal_coverage(timeline, size).await?);
            }
        }
        let stored = coverages.iter().filter_map(|coverage| Some((coverage.timeline, coverage.newest?))).collect();
        Ok(Self { timelines: Timelines { tree: repository.wal_tree(now).await?, stored }, coverages })
    }

    /// Whether the whole of `segment` is stored.
    pub fn holds(&self, segment: SegmentName) -> bool {
        self.coverages.iter().any(|coverage| coverage.timeline == segment.timeline() && coverage.holds(segment))
    }

    /// The timelines that `base` can be recovered to, newest first: its own, and those that branched off behind its end.
    pub fn reachable(&self, base: &BaseRecord) -> Vec<Timeline> {
        let place = Place { timeline: base.timeline, stop: base.stop };
        let mut found: Vec<Timeline> =
            self.timelines.all().filter(|timeline| self.timelines.reaches(place, *timeline)).collect();
        if !found.contains(&base.timeline) {
            found.push(base.timeline);
        }
        found.sort_unstable_by(|a, b| b.cmp(a));
        found
    }

    /// How far `base` reaches along `timeline` over what `repository` holds; nothing where not even its own log is there.
    pub async fn reach(
        &self,
        repository: &Repository,
        base: &BaseRecord,
        timeline: Timeline,
        now: DateTime<Utc>,
    ) -> Result<Option<Reach>, CatalogError> {
        let Some((log, size)) = base.segments().zip(base.segment_size()) else { return Ok(None) };
        let history = self.timelines.tree.history(timeline);
        let first = size.number_at(base.start);
        let needed = log.last.number(size).unwrap_or(first);
        let mut next = first;
        while self.holds(history.segment(next, size)) {
            next += 1;
        }
        if next <= needed {
            return Ok(None);
        }
        let (last, recorded) = loop {
            let last = history.segment(next - 1, size);
            match repository.wal_record(WalFile::Segment(last), now).await {
                Ok(Some(record)) => break (last, record.recorded),
                Ok(None) => return Ok(None),
                Err(error) if matches!(error.kind, CatalogErrorKind::Storage(_)) => return Err(error),
                // No recovery gets past a segment whose record cannot be believed.
                Err(error) => {
                    tracing::warn!(segment = %last, repository = repository.name, %error, "ends what can be reached");
                    next -= 1;
                    if next <= needed {
                        return Ok(None);
                    }
                }
            }
        };
        let later = |coverage: &Coverage| {
            let number = coverage.last().and_then(|segment| segment.number(size));
            number.is_some_and(|number| number >= next && history.segment(number, size).timeline() == coverage.timeline)
        };
        let gap = self.coverages.iter().any(later).then(|| history.segment(next, size));
        Ok(Some(Reach {
            from: base.stopped,
            until: recorded.max(base.stopped),
            first: history.segment(first, size),
            last,
            end: Lsn(next * size.bytes()),
            segments: next - first,
            gap,
        }))
    }
}
