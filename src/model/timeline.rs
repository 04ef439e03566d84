//! Where timelines come from: history files, and the tree that several of them make.
//!
//! A history file names every ancestor and the position at which it was left (PostgreSQL manual, "Timelines";
//! `access/transam/timeline.c`). A position belongs to the ancestor that had not been left yet.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::lsn::{Lsn, Timeline};
use crate::model::wal::{SegmentName, SegmentSize};

/// Where one ancestor was left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimelineSwitch {
    /// The ancestor.
    pub timeline: Timeline,
    /// The first position that is no longer its own.
    pub left_at: Lsn,
    /// Why, in PostgreSQL's words.
    pub reason: String,
}

/// One timeline and its ancestors, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: Timeline,
    ancestors: Vec<TimelineSwitch>,
}

/// A history that PostgreSQL would not take, or two that do not agree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the history of timeline {timeline}: {what}")]
pub struct BadHistory {
    timeline: u32,
    what: String,
}

impl BadHistory {
    fn new(timeline: Timeline, what: impl Into<String>) -> Self {
        Self { timeline: timeline.0, what: what.into() }
    }
}

impl TimelineHistory {
    /// A timeline without ancestors: the first.
    pub fn root(timeline: Timeline) -> Self {
        Self { timeline, ancestors: Vec::new() }
    }

    /// Reads the content of `timeline`'s history file.
    pub fn parse(timeline: Timeline, text: &str) -> Result<Self, BadHistory> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let read = |line| switch(line).ok_or_else(|| BadHistory::new(timeline, format!("its line {line:?}")));
        Self::new(timeline, lines.map(read).collect::<Result<_, _>>()?)
    }

    /// The history of `timeline` with these ancestors, which must ascend; there is at least one.
    pub fn new(timeline: Timeline, ancestors: Vec<TimelineSwitch>) -> Result<Self, BadHistory> {
        let followers = ancestors.iter().skip(1).map(|switch| switch.timeline).chain([timeline]);
        let mut pairs = ancestors.iter().zip(followers);
        match pairs.find(|(switch, follower)| switch.timeline >= *follower) {
            Some((_, follower)) => {
                Err(BadHistory::new(timeline, format!("timeline {} stands in it out of order", follower.0)))
            }
            None if ancestors.is_empty() => Err(BadHistory::new(timeline, "it names no ancestor")),
            None => Ok(Self { timeline, ancestors }),
        }
    }

    /// The timeline itself.
    pub fn timeline(&self) -> Timeline {
        self.timeline
    }

    /// Its ancestors, the oldest first.
    pub fn ancestors(&self) -> &[TimelineSwitch] {
        &self.ancestors
    }

    /// The timeline it branched off and where; nothing for the first.
    pub fn parent(&self) -> Option<&TimelineSwitch> {
        self.ancestors.last()
    }

    /// The timeline that `position` belongs to, on the way to this one.
    pub fn timeline_at(&self, position: Lsn) -> Timeline {
        let owner = self.ancestors.iter().find(|switch| position < switch.left_at);
        owner.map_or(self.timeline, |switch| switch.timeline)
    }

    /// Whether the end `position` of something on `timeline` lies on the way to this timeline.
    pub fn reaches(&self, timeline: Timeline, position: Lsn) -> bool {
        let left = self.ancestors.iter().find(|switch| switch.timeline == timeline);
        timeline == self.timeline || left.is_some_and(|switch| position <= switch.left_at)
    }

    /// The segment that recovery to this timeline reads for segment `number`: of the newest timeline that was begun
    /// within or before it, because a new timeline's first segment repeats the old one's up to the switch.
    pub fn segment(&self, number: u64, size: SegmentSize) -> SegmentName {
        let mut owner = self.ancestors.first().map_or(self.timeline, |switch| switch.timeline);
        let successors = self.ancestors.iter().skip(1).map(|switch| switch.timeline).chain([self.timeline]);
        for (switch, successor) in self.ancestors.iter().zip(successors) {
            if size.number_at(switch.left_at) <= number {
                owner = successor;
            }
        }
        SegmentName::of_number(owner, number, size)
    }
}

/// One line: timeline in decimal, position, reason, separated by white space.
fn switch(line: &str) -> Option<TimelineSwitch> {
    let (timeline, rest) = line.split_once(|c: char| c.is_ascii_whitespace())?;
    let rest = rest.trim_start();
    let (position, reason) = rest.split_once(|c: char| c.is_ascii_whitespace()).unwrap_or((rest, ""));
    let timeline = timeline.parse().ok().filter(|timeline| *timeline > 0)?;
    let left_at = position.parse().ok()?;
    Some(TimelineSwitch { timeline: Timeline(timeline), left_at, reason: reason.trim().to_owned() })
}

/// Several histories of one cluster, which must agree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TimelineTree(BTreeMap<Timeline, TimelineHistory>);

impl TimelineTree {
    /// Takes a history. Errors when it and those known tell different stories of the same ancestors.
    pub fn insert(&mut self, history: TimelineHistory) -> Result<(), BadHistory> {
        for other in self.0.values() {
            let (older, newer) = if other.timeline < history.timeline { (other, &history) } else { (&history, other) };
            let Some(at) = newer.ancestors.iter().position(|switch| switch.timeline == older.timeline) else {
                continue;
            };
            if !same_switches(&newer.ancestors[..at], &older.ancestors) {
                let what = format!("it disagrees with that of timeline {}", older.timeline.0);
                return Err(BadHistory::new(newer.timeline, what));
            }
        }
        self.0.insert(history.timeline, history);
        Ok(())
    }

    /// The history of `timeline`; one without a file has no ancestors.
    pub fn history(&self, timeline: Timeline) -> TimelineHistory {
        self.0.get(&timeline).cloned().unwrap_or_else(|| TimelineHistory::root(timeline))
    }

    /// The history of `timeline`, where there is one.
    pub fn get(&self, timeline: Timeline) -> Option<&TimelineHistory> {
        self.0.get(&timeline)
    }

    /// Whether it is known where `timeline` comes from; the first comes from nowhere.
    pub fn knows(&self, timeline: Timeline) -> bool {
        timeline.0 < 2 || self.0.contains_key(&timeline)
    }

    /// Every timeline with a history, ascending.
    pub fn histories(&self) -> impl Iterator<Item = &TimelineHistory> {
        self.0.values()
    }

    /// The timelines that branched off `timeline`, and where.
    pub fn children(&self, timeline: Timeline) -> impl Iterator<Item = (Timeline, Lsn)> {
        let parents = self.0.values().filter_map(|history| Some((history.timeline, history.parent()?)));
        parents.filter(move |(_, parent)| parent.timeline == timeline).map(|(child, parent)| (child, parent.left_at))
    }
}

/// Reasons are for people and may be edited; the positions may not.
fn same_switches(a: &[TimelineSwitch], b: &[TimelineSwitch]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a.timeline, a.left_at) == (b.timeline, b.left_at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: &str = "1\t0/3000148\tno recovery target specified\n\n2\t0/5000000\tbefore 2025-11-03 14:30:00+00\n";

    fn three() -> TimelineHistory {
        TimelineHistory::parse(Timeline(3), THREE).unwrap()
    }

    #[test]
    fn a_history_names_its_ancestors_in_order() {
        let history = three();
        let switches: Vec<_> = history.ancestors().iter().map(|each| (each.timeline.0, each.left_at.0)).collect();
        assert_eq!(switches, [(1, 0x300_0148), (2, 0x500_0000)]);
        assert_eq!(history.parent().unwrap().reason, "before 2025-11-03 14:30:00+00");
        let commented = format!("# a note\n  \n{THREE}");
        assert_eq!(TimelineHistory::parse(Timeline(3), &commented).unwrap(), history);
    }

    #[test]
    fn a_history_that_postgresql_would_not_take_is_refused() {
        for text in [
            "",
            "# nothing\n",
            "1\n",
            "x\t0/1\n",
            "0\t0/1\n",
            "1\t01\n",
            "2\t0/1\n1\t0/2\n",
            "3\t0/1\n",
            "1\t0/1\n1\t0/2\n",
        ] {
            assert!(TimelineHistory::parse(Timeline(3), text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn f60_a_position_belongs_to_the_timeline_that_had_not_been_left() {
        let history = three();
        let at = |position| history.timeline_at(Lsn(position)).0;
        assert_eq!([at(0), at(0x300_0147), at(0x300_0148), at(0x4FF_FFFF), at(0x500_0000)], [1, 1, 2, 2, 3]);
        assert!(history.reaches(Timeline(1), Lsn(0x300_0148)) && !history.reaches(Timeline(1), Lsn(0x300_0149)));
        assert!(history.reaches(Timeline(3), Lsn(u64::MAX)) && !history.reaches(Timeline(4), Lsn(0)));
    }

    #[test]
    fn f60_the_segment_of_a_switch_is_read_from_the_newer_timeline() {
        let (history, size) = (three(), SegmentSize::new(1 << 20).unwrap());
        let name = |number| history.segment(number, size).to_string();
        assert_eq!(name(0x2F), "00000001000000000000002F");
        assert_eq!(name(0x30), "000000020000000000000030");
        assert_eq!(name(0x4F), "00000002000000000000004F");
        assert_eq!(name(0x50), "000000030000000000000050");
        let both = TimelineHistory::parse(Timeline(3), "1\t0/3000148\t\n2\t0/3000200\t\n").unwrap();
        assert_eq!(both.segment(0x30, size).timeline(), Timeline(3), "two switches in one segment");
    }

    #[test]
    fn f60_histories_make_a_tree_and_must_agree() {
        let mut tree = TimelineTree::default();
        tree.insert(three()).unwrap();
        tree.insert(TimelineHistory::parse(Timeline(2), "1\t0/3000148\tedited\n").unwrap()).unwrap();
        tree.insert(TimelineHistory::parse(Timeline(4), "1\t0/2000000\tback again\n").unwrap()).unwrap();
        assert_eq!(
            tree.children(Timeline(1)).collect::<Vec<_>>(),
            [(Timeline(2), Lsn(0x300_0148)), (Timeline(4), Lsn(0x200_0000))]
        );
        assert_eq!(tree.history(Timeline(1)), TimelineHistory::root(Timeline(1)));
        let other = TimelineHistory::parse(Timeline(2), "1\t0/3000149\t\n").unwrap();
        assert!(tree.insert(other).is_err());
        let other = TimelineHistory::parse(Timeline(5), "1\t0/2\t\n3\t0/6000000\t\n").unwrap();
        assert!(tree.insert(other).is_err(), "3 came by way of 2");
    }
}
