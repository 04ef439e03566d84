//! The archived WAL of one repository: what is stored of which timeline, where timelines come from, and what a base backup
//! can be followed to over it.
//!
//! From listings and records alone, no key is needed. The reach of a base backup is the log from its start without a gap.
//! The newest segment's record says when the server last wrote to it, and everything committed by then is in it or before
//! it: that instant ends the window, however late the segment was stored. One that a standby received says when its last
//! transaction ended instead.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::wal::Coverage;
use crate::catalog::{CatalogError, CatalogErrorKind, Repository};
use crate::model::base::BaseRecord;
use crate::model::eras::Eras;
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::manifest::Manifest;
use crate::model::timeline::TimelineHistory;
use crate::model::wal::{SegmentName, SegmentSize, WalFile};
use crate::model::wal_retention::{Place, Timelines};
use crate::model::window::Reached;

/// What a repository holds of the WAL.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// The timelines.
    pub timelines: Timelines,
    /// What is stored of each, ascending.
    pub coverages: Vec<Coverage>,
    /// Whose it is, timeline by timeline.
    pub eras: BTreeMap<Timeline, Eras>,
}

/// How far one base backup reaches along one timeline.
#[derive(Clone, Debug)]
pub struct Reach {
    /// The earliest instant: when the backup ended.
    pub from: DateTime<Utc>,
    /// The latest: when the last segment without a gap was last written to.
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

impl Reach {
    /// The moments, to be joined with those of others.
    pub fn reached(&self) -> Reached {
        Reached { from: self.from, until: self.until, last: self.last, gap: self.gap }
    }
}

impl Archive {
    /// Reads what `repository` holds.
    pub async fn read(repository: &Repository, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        let (mut coverages, mut eras) = (Vec::new(), BTreeMap::new());
        for timeline in repository.wal_timelines().await? {
            if let Some(size) = repository.wal_segment_size(timeline, now).await? {
                let coverage = repository.wal_coverage(timeline, size).await?;
                eras.insert(timeline, repository.wal_eras(&coverage, now).await?);
                coverages.push(coverage);
            }
        }
        let stored = coverages.iter().filter_map(|coverage| Some((coverage.timeline, coverage.newest?))).collect();
        Ok(Self { timelines: Timelines { tree: repository.wal_tree(now).await?, stored }, coverages, eras })
    }

    /// Whether `segment` can be of `system`: no recovery goes on in the log of a successor by pg_upgrade.
    fn can_be_of(&self, segment: SegmentName, system: Option<SystemId>) -> bool {
        self.eras.get(&segment.timeline()).is_none_or(|eras| eras.can_be_of(segment, system))
    }

    /// Where, on `timeline`, the log of `system` ends and that of its successor by pg_upgrade begins.
    pub fn end_of(&self, system: Option<SystemId>, timeline: Timeline) -> Option<SegmentName> {
        self.eras.get(&timeline)?.end_of(system)
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

    /// How far the base backup of `manifest` reaches along `timeline` over what `repository` holds; nothing where not even
    /// its own log is there.
    pub async fn reach(
        &self,
        repository: &Repository,
        manifest: &Manifest,
        timeline: Timeline,
        now: DateTime<Utc>,
    ) -> Result<Option<Reach>, CatalogError> {
        let Some(base) = &manifest.base else { return Ok(None) };
        let Some((log, size)) = base.segments().zip(base.segment_size()) else { return Ok(None) };
        let system = manifest.source.system_identifier;
        let history = self.timelines.tree.history(timeline);
        let first = size.number_at(base.start);
        let needed = log.last.number(size).unwrap_or(first);
        let mut next = first;
        let own = |segment: SegmentName| self.can_be_of(segment, system);
        while self.holds(history.segment(next, size)) && own(history.segment(next, size)) {
            next += 1;
        }
        if next <= needed {
            return Ok(None);
        }
        // Where a successor's log follows, the timelines that branch off later are the successor's.
        let ends_on = history.segment(next - 1, size).timeline();
        if ends_on != timeline && self.end_of(system, ends_on).is_some() {
            return Ok(None);
        }
        let (last, covered) = loop {
            let last = history.segment(next - 1, size);
            match repository.wal_record(WalFile::Segment(last), now).await {
                Ok(Some(record)) => break (last, record.covers_until()),
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
        let covered = match covered {
            Some(covered) => covered,
            None => self.covered_before(last, (&history, size, first), repository, now).await?.unwrap_or(base.stopped),
        };
        let later = |coverage: &Coverage| {
            let is_later = |segment: SegmentName| {
                let number = segment.number(size);
                number.is_some_and(|number| number >= next && history.segment(number, size) == segment) && own(segment)
            };
            coverage.ranges.iter().any(|range| is_later(range.last) || is_later(range.first))
        };
        let gap = self.coverages.iter().any(later).then(|| history.segment(next, size));
        Ok(Some(Reach {
            from: base.stopped,
            until: covered.max(base.stopped),
            first: history.segment(first, size),
            last,
            end: Lsn(next * size.bytes()),
            segments: next - first,
            gap,
        }))
    }

    /// Up to when everything acknowledged is known to be in the segments before `last`, from number `first` on: the newest
    /// that can tell does.
    async fn covered_before(
        &self,
        last: SegmentName,
        (history, size, first): (&TimelineHistory, SegmentSize, u64),
        repository: &Repository,
        now: DateTime<Utc>,
    ) -> Result<Option<DateTime<Utc>>, CatalogError> {
        for number in (first..last.number(size).unwrap_or(first)).rev() {
            match repository.wal_record(WalFile::Segment(history.segment(number, size)), now).await {
                Ok(Some(record)) if record.covers_until().is_none() => {}
                Ok(record) => return Ok(record.and_then(|record| record.covers_until())),
                Err(error) if matches!(error.kind, CatalogErrorKind::Storage(_)) => return Err(error),
                Err(_) => return Ok(None),
            }
        }
        Ok(None)
    }
}
