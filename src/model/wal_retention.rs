//! Which archived WAL stays: all that a base backup which stays can reach, on every timeline, and all of which nobody can
//! say that it is useless.
//!
//! WAL has no rules of its own. Timelines are a tree: a base backup reaches its own timeline and every one that branched
//! off behind its end, and needs each of them from its start on. The surprising thing are the histories: PostgreSQL looks
//! for the newest timeline by asking for one history after the other until one is missing, so that a hole among them hides
//! every later timeline. They go from below only, once no base backup that stays is of so old a timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::id::ArtifactId;
use crate::model::lsn::{Lsn, Timeline};
use crate::model::timeline::TimelineTree;
use crate::model::wal::{SegmentName, SegmentRange, SegmentSize, WalFile};

/// Where a base backup ended: from there on it can follow a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The timeline it was taken on.
    pub timeline: Timeline,
    /// Where a copy of it is consistent.
    pub stop: Lsn,
}

/// The timelines of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timelines {
    /// Where they come from.
    pub tree: TimelineTree,
    /// Those of which segments are stored, with the instant at which the last one was.
    pub stored: BTreeMap<Timeline, DateTime<Utc>>,
}

impl Timelines {
    /// The newest there is, with segments or without.
    pub fn newest(&self) -> Option<Timeline> {
        self.all().last()
    }

    /// All of them, ascending, whether segments of them are stored or only their history.
    pub fn all(&self) -> impl Iterator<Item = Timeline> {
        let with_history = self.tree.histories().map(|history| history.timeline());
        self.stored.keys().copied().chain(with_history).collect::<BTreeSet<_>>().into_iter()
    }

    /// The timelines that a copy of a base backup which ended at `place` can be followed to, where `log` are the segments
    /// between its start and its end: those on whose way each of them is stored, as `is_held` says. On the way to a later
    /// timeline the last of them may be that one's own.
    pub fn followed_from(
        &self,
        place: Place,
        log: SegmentRange,
        size: SegmentSize,
        is_held: impl Fn(SegmentName) -> bool,
    ) -> BTreeSet<Timeline> {
        let mut candidates: BTreeSet<Timeline> = self.all().filter(|each| self.reaches(place, *each)).collect();
        candidates.insert(place.timeline);
        candidates.retain(|timeline| {
            let history = self.tree.history(*timeline);
            let mut numbers = log.segments(size).filter_map(|segment| segment.number(size));
            numbers.all(|number| is_held(history.segment(number, size)))
        });
        candidates
    }

    /// Whether recovery from a base backup that ended at `place` can follow `timeline`.
    pub fn reaches(&self, place: Place, timeline: Timeline) -> bool {
        match self.tree.get(timeline) {
            Some(history) => history.reaches(place.timeline, place.stop),
            None => place.timeline == timeline,
        }
    }
}

/// What one base backup that stays needs of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The base backup.
    pub id: ArtifactId,
    /// Where it ended.
    pub place: Place,
    /// The segment in which recovery from it begins.
    pub first: SegmentName,
    /// The first segment of its timeline that a successor by pg_upgrade wrote: no recovery from it comes there, nor to a
    /// timeline that branches off behind it.
    pub until: Option<Until>,
}

/// Where the log of a system ends and another one's begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    /// The first segment of the other's.
    pub segment: SegmentName,
    /// Where it begins.
    pub position: Lsn,
}

/// Why a WAL file stays or goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalReason {
    /// This base backup, the oldest that can reach it, needs it.
    NeededBy(ArtifactId),
    /// There is no base backup: nothing says from where on it is needed.
    NoBase,
    /// A base backup's manifest was refused: what it needs is not known.
    BaseRefused,
    /// It is not known where its timeline comes from.
    NoHistory,
    /// No base backup reaches the newest timeline yet.
    NewestTimeline,
    /// It was stored, or something of its timeline was, within the grace time.
    InGrace,
    /// Base backups that stay are of this timeline or an older one.
    TimelineInUse,
    /// This repository needs it and has not got it.
    AwaitedBy(String),
    /// What this repository needs or has is not known.
    UnknownTo(String),
    /// Its record cannot be read or believed.
    Unreadable,
    /// It ends before the oldest base backup that could reach it begins.
    Before(ArtifactId),
    /// Every base backup that stays is of another branch, or of a later timeline.
    OutOfReach,
}

impl fmt::Display for WalReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeededBy(id) => write!(f, "needed by the base backup {id}"),
            Self::NoBase => f.write_str("there is no base backup to begin from"),
            Self::BaseRefused => f.write_str("the manifest of a base backup was refused"),
            Self::NoHistory => f.write_str("the history of its timeline is not stored"),
            Self::NewestTimeline => f.write_str("of the newest timeline, which has no base backup yet"),
            Self::InGrace => f.write_str("younger than the grace time"),
            Self::TimelineInUse => f.write_str("base backups of this timeline or an older one are kept"),
            Self::AwaitedBy(repository) => write!(f, "{repository} needs it and has not got it"),
            Self::UnknownTo(repository) => write!(f, "what {repository} needs is not known"),
            Self::Unreadable => f.write_str("its record cannot be believed"),
            Self::Before(id) => write!(f, "before the oldest base backup that could use it, {id}"),
            Self::OutOfReach => f.write_str("no base backup that is kept can reach it"),
        }
    }
}

/// What becomes of a WAL file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalDecision {
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: WalReason,
}

impl WalDecision {
    /// It stays.
    pub fn keep(reason: WalReason) -> Self {
        Self { keep: true, reason }
    }

    fn expire(reason: WalReason) -> Self {
        Self { keep: false, reason }
    }
}

/// What decides over the WAL of one repository.
#[derive(Clone, Debug)]
pub struct WalRule {
    /// What the base backups that stay need.
    pub needs: Vec<Need>,
    /// The timelines.
    pub timelines: Timelines,
    /// What was stored since then is not touched, nor is a timeline of which something was that nobody can reach.
    pub grace_begins: DateTime<Utc>,
    /// Whether the manifest of a base backup was refused.
    pub base_refused: bool,
}

impl WalRule {
    /// What becomes of `file`.
    pub fn judge(&self, file: WalFile) -> WalDecision {
        match file.segment() {
            Some(segment) => self.judge_segment(segment),
            None => self.judge_history(file.timeline()),
        }
    }

    /// What becomes of the segments of `range`, in pieces that stay or go for one reason, ascending.
    pub fn judge_range(&self, range: SegmentRange, size: SegmentSize) -> Vec<(SegmentRange, WalDecision)> {
        let ends = self.needs.iter().flat_map(|need| [Some(need.first), need.until.map(|until| until.segment)]);
        let bounds: Option<BTreeSet<u64>> = ends.flatten().map(|bound| bound.number(size)).collect();
        let (Some(bounds), Some(begins), Some(last)) = (bounds, range.first.number(size), range.last.number(size))
        else {
            // Names that such segments cannot have: another cluster's, before an upgrade.
            let (first, last) = (self.judge_segment(range.first), self.judge_segment(range.last));
            return vec![(range, if first.keep == last.keep { first } else { last })];
        };
        let name = |number| SegmentName::of_number(range.first.timeline(), number, size);
        let mut pieces: Vec<(SegmentRange, WalDecision)> = Vec::new();
        let within = bounds.into_iter().filter(|bound| (begins + 1..=last).contains(bound));
        for begin in std::iter::once(begins).chain(within) {
            let (first, decision) = (name(begin), self.judge_segment(name(begin)));
            match pieces.last_mut() {
                Some((_, before)) if *before == decision => continue,
                Some((before, _)) => before.last = name(begin - 1),
                None => {}
            }
            pieces.push((SegmentRange { first, last: range.last }, decision));
        }
        pieces
    }

    fn judge_segment(&self, segment: SegmentName) -> WalDecision {
        let timeline = segment.timeline();
        if let Some(reason) = self.held(timeline) {
            return WalDecision::keep(reason);
        }
        match self.oldest_need(segment) {
            Some(need) if segment.is_at_or_after(need.first) => WalDecision::keep(WalReason::NeededBy(need.id)),
            Some(need) => WalDecision::expire(WalReason::Before(need.id)),
            None => self.judge_out_of_reach(timeline),
        }
    }

    fn held(&self, timeline: Timeline) -> Option<WalReason> {
        if self.base_refused {
            Some(WalReason::BaseRefused)
        } else if self.needs.is_empty() {
            Some(WalReason::NoBase)
        } else {
            (!self.timelines.tree.knows(timeline)).then_some(WalReason::NoHistory)
        }
    }

    /// Of the base backups that can reach the timeline of `segment`, the one that needs most of it; where an upgrade began
    /// it anew, of those behind the upgrade, once there are any.
    fn oldest_need(&self, segment: SegmentName) -> Option<&Need> {
        let timeline = segment.timeline();
        let oldest = |is_split: bool| {
            let reaching = self.needs.iter().filter(|need| self.timelines.reaches(need.place, timeline));
            let reaching = reaching.filter(|need| !is_split || !self.is_behind(segment, need.until));
            reaching.reduce(|oldest, need| if need.first.is_at_or_after(oldest.first) { oldest } else { need })
        };
        oldest(true).or_else(|| oldest(false))
    }

    /// Whether the way to `segment` leads over `until`.
    fn is_behind(&self, segment: SegmentName, until: Option<Until>) -> bool {
        let Some(Until { segment: first, position }) = until else { return false };
        if segment.timeline() == first.timeline() {
            return segment.is_at_or_after(first);
        }
        let history = self.timelines.tree.history(segment.timeline());
        let left = history.ancestors().iter().find(|switch| switch.timeline == first.timeline());
        left.is_some_and(|switch| switch.left_at >= position)
    }

    /// A branch that was left before the oldest base backup, unless it may be the one that is being written.
    fn judge_out_of_reach(&self, timeline: Timeline) -> WalDecision {
        let last = self.timelines.stored.get(&timeline);
        if self.timelines.newest() == Some(timeline) {
            WalDecision::keep(WalReason::NewestTimeline)
        } else if last.is_some_and(|last| *last > self.grace_begins) {
            WalDecision::keep(WalReason::InGrace)
        } else {
            WalDecision::expire(WalReason::OutOfReach)
        }
    }

    fn judge_history(&self, timeline: Timeline) -> WalDecision {
        let oldest = self.needs.iter().map(|need| need.place.timeline).min();
        if self.base_refused {
            return WalDecision::keep(WalReason::BaseRefused);
        }
        match oldest {
            None => WalDecision::keep(WalReason::NoBase),
            Some(oldest) if timeline >= oldest => WalDecision::keep(WalReason::TimelineInUse),
            Some(_) => self.judge_out_of_reach(timeline),
        }
    }
}
