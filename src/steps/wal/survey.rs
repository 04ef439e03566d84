//! What all repositories hold of the WAL, timeline by timeline, and what of it is missing where.
//!
//! From listings, manifests and a look into pg_wal; of the records of segments only the few are read that tell whose a
//! timeline is. A gap is judged for each repository: what another one has, or pg_wal still has, is late; what nobody has is
//! lost. A repository needs the log from its own oldest base backup on; without one, from whatever it begins with. Where an
//! upgrade began a timeline anew, each system's stretch is judged by itself: between them nothing ever was.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use serde::Serialize;

use crate::catalog::wal::{Coverage, Stored};
use crate::catalog::{CatalogError, Inventory, Repository, Unsigned, chain};
use crate::model::base::BaseRecord;
use crate::model::eras::Eras;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::lsn::{SystemId, Timeline};
use crate::model::outcome::{Finding, Severity};
use crate::model::timeline::TimelineTree;
use crate::model::wal::{SegmentName, SegmentRange, SegmentRanges, SegmentSize};
use crate::postgres::wal_files;
use crate::steps::wal::former;

/// Bytes without a record that are younger than this are taken to be on their way.
const ON_ITS_WAY: TimeDelta = TimeDelta::minutes(10);

/// Why a segment that should be stored is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum GapState {
    /// It is on its way.
    Uploading,
    /// Another repository has it, or pg_wal still does.
    Delayed,
    /// Nobody has it.
    Lost,
}

/// Segments that one repository lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The repository.
    pub repository: String,
    /// Which.
    #[serde(flatten)]
    pub range: SegmentRange,
    /// Why.
    pub state: GapState,
    /// Whether a good base backup was made behind them, so that recovery leads on from there.
    pub passed: bool,
}

impl Missing {
    /// Whether it is lost, and no recovery gets past it.
    pub fn is_open(&self) -> bool {
        self.state == GapState::Lost && !self.passed
    }
}

/// One timeline.
#[derive(Clone, Debug)]
pub struct TimelineSurvey {
    /// The timeline.
    pub timeline: Timeline,
    /// What each repository that could be read holds of it.
    pub held: Vec<(String, Coverage)>,
    /// Whose it is.
    pub eras: Eras,
    /// What should be there and is not, ascending for each repository.
    pub missing: Vec<Missing>,
}

/// All of it.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The segments' size; absent when nothing is stored and there is no data directory.
    pub size: Option<SegmentSize>,
    /// Every timeline of which anything is stored, ascending.
    pub timelines: Vec<TimelineSurvey>,
    /// Where timelines come from.
    pub tree: TimelineTree,
    /// Repositories that could not be read, with the reason.
    pub unread: Vec<(String, String)>,
}

/// Finished segments that lie in a pg_wal.
#[derive(Clone, Debug)]
pub struct Local {
    size: SegmentSize,
    finished: BTreeSet<SegmentName>,
}

impl Local {
    /// What lies in the folder `pg_wal`, of segments of `size`.
    pub fn read(pg_wal: &Path, size: SegmentSize) -> Result<Self, Failure> {
        let finished = wal_files::finished(pg_wal).map_err(|error| {
            Failure::new(FailureKind::Failed, format!("look into {}", pg_wal.display()))
                .because(error)
                .hint("Run it as a user that may read the data directory; postgres.data_directory names it.")
        })?;
        Ok(Self { size, finished: finished.into_iter().collect() })
    }

    /// Whether it has `segment`.
    pub fn has(&self, segment: SegmentName) -> bool {
        self.finished.contains(&segment)
    }

    /// All of them, ascending.
    pub fn segments(&self) -> impl Iterator<Item = SegmentName> + '_ {
        self.finished.iter().copied()
    }

    fn last_of(&self, timeline: Timeline) -> Option<SegmentName> {
        self.finished.iter().rev().find(|segment| segment.timeline() == timeline).copied()
    }
}

/// Looks at all of `repositories`. One that cannot be read is told, and counts for nothing.
pub async fn survey(repositories: &[Repository], local: Option<&Local>, now: DateTime<Utc>) -> Survey {
    let mut survey = Survey { size: None, timelines: Vec::new(), tree: TimelineTree::default(), unread: Vec::new() };
    let read = join_all(repositories.iter().map(|repository| read(repository, local, now))).await;
    let mut held: Vec<(String, Coverage)> = Vec::new();
    let mut bases: Vec<(String, Based)> = Vec::new();
    let mut eras: BTreeMap<Timeline, Eras> = BTreeMap::new();
    for (repository, read) in repositories.iter().zip(read) {
        match read {
            Ok((coverages, tree, based)) => {
                for (coverage, found) in coverages {
                    eras.entry(coverage.timeline).or_default().merge(&found);
                    held.push((repository.name.clone(), coverage));
                }
                bases.extend(based.into_iter().map(|base| (repository.name.clone(), base)));
                survey.merge(&repository.name, tree);
            }
            Err(error) => survey.unread.push((repository.name.clone(), with_causes(&error))),
        }
    }
    let of_bases = || bases.iter().find_map(|(_, based)| based.base.segment_size());
    survey.size = local.map(|local| local.size).or_else(|| held.first().map(|(_, each)| each.size)).or_else(of_bases);
    let names: Vec<&str> = repositories.iter().map(|repository| repository.name.as_str()).collect();
    let readable = |name: &&&str| !survey.unread.iter().any(|(unread, _)| unread == **name);
    let names: Vec<&str> = names.iter().filter(readable).copied().collect();
    let timelines = held.iter().map(|(_, coverage)| coverage.timeline);
    let timelines: BTreeSet<Timeline> = timelines.chain(bases.iter().map(|(_, based)| based.base.timeline)).collect();
    for timeline in timelines {
        let eras = eras.remove(&timeline).unwrap_or_default();
        let (tree, names) = (&survey.tree, names.as_slice());
        let judge = Judge { held: &held, bases: &bases, names, local, tree, timeline, eras: &eras, now };
        let missing = survey.size.map_or_else(Vec::new, |size| judge.missing(size));
        let held = held.iter().filter(|(_, coverage)| coverage.timeline == timeline).cloned().collect();
        survey.timelines.push(TimelineSurvey { timeline, held, eras, missing });
    }
    survey
}

/// A base backup.
struct Based {
    /// The system that it is of.
    system: Option<SystemId>,
    base: BaseRecord,
    /// Whether a recovery chooses it by itself: it and what it builds on are whole.
    is_good: bool,
}

async fn read(
    repository: &Repository,
    local: Option<&Local>,
    now: DateTime<Utc>,
) -> Result<(Vec<(Coverage, Eras)>, TimelineTree, Vec<Based>), CatalogError> {
    let mut coverages = Vec::new();
    for timeline in repository.wal_timelines().await? {
        let size = match local {
            Some(local) => Some(local.size),
            None => repository.wal_segment_size(timeline, now).await?,
        };
        if let Some(size) = size {
            let coverage = repository.wal_coverage(timeline, size).await?;
            let eras = repository.wal_eras(&coverage, now).await?;
            coverages.push((coverage, eras));
        }
    }
    let inventory = Inventory::read(repository, Unsigned::Refuse, now).await?;
    let all = &inventory.artifacts;
    let bases = all.iter().filter_map(|artifact| {
        let is_good = artifact.damaged.is_none() && chain::line(artifact, all).is_ok();
        let base = artifact.manifest.base.clone()?;
        Some(Based { system: artifact.manifest.source.system_identifier, base, is_good })
    });
    Ok((coverages, repository.wal_tree(now).await?, bases.collect()))
}

impl Survey {
    fn merge(&mut self, repository: &str, tree: TimelineTree) {
        for history in tree.histories() {
            if let Err(error) = self.tree.insert(history.clone()) {
                self.unread.push((repository.to_owned(), error.to_string()));
            }
        }
    }
}

/// What one timeline should have, and why it has not.
struct Judge<'a> {
    held: &'a [(String, Coverage)],
    bases: &'a [(String, Based)],
    names: &'a [&'a str],
    local: Option<&'a Local>,
    tree: &'a TimelineTree,
    timeline: Timeline,
    eras: &'a Eras,
    now: DateTime<Utc>,
}

/// One system's numbers of a timeline.
struct Stretch {
    /// Nothing where there is only one.
    system: Option<SystemId>,
    numbers: Range<u64>,
}

impl Stretch {
    fn is_of(&self, system: Option<SystemId>) -> bool {
        self.system.zip(system).is_none_or(|(own, system)| own == system)
    }

    /// The numbers of the first and the last segment of it that `coverage` holds.
    fn held_of(&self, coverage: &Coverage) -> Option<(u64, u64)> {
        let (first, last) = (self.numbers.start, self.numbers.end - 1);
        let numbers =
            |range: &SegmentRange| Some((range.first.number(coverage.size)?, range.last.number(coverage.size)?));
        let mut within = coverage.ranges.iter().filter_map(numbers);
        let mut within = within.by_ref().filter(|(begins, ends)| *ends >= first && *begins <= last);
        let (begins, ends) = within.next()?;
        let ends = within.last().map_or(ends, |(_, ends)| ends);
        Some((begins.max(first), ends.min(last)))
    }
}

impl Judge<'_> {
    fn missing(&self, size: SegmentSize) -> Vec<Missing> {
        let mut missing = Vec::new();
        for name in self.names {
            for stretch in self.stretches(size) {
                let Some((first, last)) = self.expected(name, &stretch, size) else { continue };
                let own = self.of_timeline().find(|(other, _)| other == name).map(|(_, coverage)| coverage);
                let lacks = lacking(own, first, last, self.timeline, size);
                let states = lacks.into_iter().map(|segment| (segment, self.state(own, name, segment)));
                let passed = |range: SegmentRange| self.is_passed(name, &stretch, range, size);
                missing.extend(in_ranges(name, states, size, &passed));
            }
        }
        missing
    }

    /// Whether the repository `name` has a good base backup that begins behind `range`. One of the system that an upgrade
    /// put in the place of this one counts too: it begins with timeline 1 again, behind everything that was before.
    fn is_passed(&self, name: &str, stretch: &Stretch, range: SegmentRange, size: SegmentSize) -> bool {
        let own = stretch.system.or_else(|| self.eras.iter().next().map(|era| era.system));
        let is_successor = |based: &Based| own.zip(based.system).is_some_and(|(own, theirs)| own != theirs);
        let mut bases = self.bases.iter().filter(|(other, based)| other == name && based.is_good);
        bases.any(|(_, based)| {
            let first = based.base.segments().and_then(|log| log.first.number(size));
            let leads_on = based.base.timeline >= self.timeline || is_successor(based);
            leads_on && first > range.last.number(size)
        })
    }

    fn stretches(&self, size: SegmentSize) -> Vec<Stretch> {
        let eras: Vec<(SystemId, u64)> =
            self.eras.iter().filter_map(|era| Some((era.system, era.first.number(size)?))).collect();
        if eras.len() < 2 {
            return vec![Stretch { system: None, numbers: 0..u64::MAX }];
        }
        let ends = eras.iter().skip(1).map(|(_, first)| *first).chain([u64::MAX]);
        let stretch = |(at, ((system, first), end)): (usize, (&(SystemId, u64), u64))| Stretch {
            system: Some(*system),
            numbers: if at == 0 { 0 } else { *first }..end,
        };
        eras.iter().zip(ends).enumerate().map(stretch).collect()
    }

    fn of_timeline(&self) -> impl Iterator<Item = &(String, Coverage)> {
        self.held.iter().filter(|(_, coverage)| coverage.timeline == self.timeline)
    }

    /// The numbers of the first and the last segment that the repository `name` should have. It may begin later than
    /// others, because retention is its own, but not behind its oldest base backup; one that went on to later timelines
    /// needs nothing of this one unless a base backup of its own does.
    fn expected(&self, name: &str, stretch: &Stretch, size: SegmentSize) -> Option<(u64, u64)> {
        let firsts = |coverage: &Coverage| stretch.held_of(coverage).map(|(first, _)| first);
        let own = self.of_timeline().find(|(other, _)| other == name).and_then(|(_, coverage)| firsts(coverage));
        let later = |(other, coverage): &(String, Coverage)| {
            other == name && coverage.timeline > self.timeline && !coverage.ranges.is_empty()
        };
        let bases = self.bases.iter().filter(|(other, based)| other == name && stretch.is_of(based.system));
        let needed: Vec<(u64, u64)> = bases.filter_map(|(_, based)| self.needed(&based.base, size)).collect();
        let first = match own.into_iter().chain(needed.iter().map(|(first, _)| *first)).min() {
            Some(first) => first,
            None if self.held.iter().any(later) => return None,
            None => self.of_timeline().filter_map(|(_, coverage)| firsts(coverage)).min()?,
        };
        let stored = self.of_timeline().filter_map(|(_, coverage)| Some(stretch.held_of(coverage)?.1));
        // A child's first segment repeats the last of its parent, so that the parent is needed up to the one before.
        let branches = self.tree.children(self.timeline).map(|(_, left_at)| size.number_at(left_at));
        let branches = branches.filter_map(|number| number.checked_sub(1));
        let here = self.local.and_then(|local| local.last_of(self.timeline)?.number(size));
        let others = branches.chain(here).filter(|number| stretch.numbers.contains(number));
        let last = stored.chain(others).chain(needed.iter().map(|(_, last)| *last)).max()?;
        (first <= last).then_some((first, last))
    }

    /// The numbers of the first segment of this timeline that recovery from `base` along it reads, and of the last one
    /// that it cannot do without; nothing where it cannot come here.
    fn needed(&self, base: &BaseRecord, size: SegmentSize) -> Option<(u64, u64)> {
        let log = base.segments().filter(|_| base.segment_size() == Some(size))?;
        let (first, last) = (log.first.number(size)?, log.last.number(size)?);
        let history = self.tree.history(self.timeline);
        let begins = history.parent().map_or(0, |switch| size.number_at(switch.left_at));
        match base.timeline == self.timeline {
            true => Some((first, last)),
            false => history.reaches(base.timeline, base.stop).then_some((begins.max(first), begins)),
        }
    }

    fn state(&self, own: Option<&Coverage>, name: &str, segment: SegmentName) -> GapState {
        let young = |coverage: &Coverage| {
            let begun = coverage.unrecorded.iter().map(|(_, begun)| *begun).max();
            coverage.standing(segment) == Stored::Begun && begun.is_some_and(|begun| self.now - begun < ON_ITS_WAY)
        };
        let elsewhere = self.of_timeline().any(|(other, coverage)| other != name && coverage.holds(segment));
        let here = self.local.is_some_and(|local| local.has(segment));
        match (own.is_some_and(young), elsewhere || here) {
            (true, _) => GapState::Uploading,
            (false, true) => GapState::Delayed,
            (false, false) => GapState::Lost,
        }
    }
}

/// The segments from number `first` to `last` that `own` does not hold.
fn lacking(own: Option<&Coverage>, first: u64, last: u64, timeline: Timeline, size: SegmentSize) -> Vec<SegmentName> {
    let names = (first..=last).map(|number| SegmentName::of_number(timeline, number, size));
    names.filter(|segment| own.is_none_or(|coverage| !coverage.holds(*segment))).collect()
}

fn in_ranges(
    name: &str,
    states: impl Iterator<Item = (SegmentName, GapState)>,
    size: SegmentSize,
    passed: &dyn Fn(SegmentRange) -> bool,
) -> Vec<Missing> {
    let states: Vec<_> = states.collect();
    let of = |state| {
        let mut ranges = SegmentRanges::new(size);
        states.iter().filter(|(_, other)| *other == state).for_each(|(segment, _)| ranges.push(*segment));
        ranges.finish().into_iter().map(move |range| {
            let passed = passed(range);
            Missing { repository: name.to_owned(), range, state, passed }
        })
    };
    let mut missing: Vec<_> = of(GapState::Uploading).chain(of(GapState::Delayed)).chain(of(GapState::Lost)).collect();
    missing.sort_by_key(|missing| missing.range.first);
    missing
}

/// What a survey says that somebody should look at.
pub fn survey_findings(found: &Survey) -> Vec<Finding> {
    let missing = found.timelines.iter().flat_map(|timeline| &timeline.missing);
    let mut findings: Vec<Finding> = missing.filter_map(|missing| gap(missing, found.size)).collect();
    for timeline in &found.timelines {
        for (repository, coverage) in timeline.held.iter().filter(|(_, coverage)| !coverage.without_bytes.is_empty()) {
            let message = format!(
                "{} files of timeline {} are recorded in repository {repository} and their bytes are gone, the first {}",
                coverage.without_bytes.len(),
                timeline.timeline.0,
                coverage.without_bytes[0]
            );
            let remedy = "find out who deleted them; `dbagent wal sync` stores anew what pg_wal still has";
            findings.push(Finding::new(Severity::Critical, "wal-bytes-missing", message).remedy(remedy));
        }
    }
    findings.extend(former::in_the_way(found));
    findings.extend(found.unread.iter().map(|(repository, why)| {
        let message = format!("the WAL in repository {repository} cannot be read: {why}");
        Finding::new(Severity::Critical, "wal-repository", message)
    }));
    findings
}

fn gap(missing: &Missing, size: Option<SegmentSize>) -> Option<Finding> {
    let Missing { repository, range, state, passed } = missing;
    let count = size.map_or(0, |size| range.count(size));
    let which = format!("{count} segments from {} to {}", range.first, range.last);
    match state {
        GapState::Uploading => None,
        GapState::Delayed => {
            let message = format!("{which} are not in repository {repository} yet");
            Some(
                Finding::new(Severity::Warning, "wal-delayed", message).remedy("`dbagent wal sync` carries them there"),
            )
        }
        GapState::Lost if *passed => {
            let message = format!(
                "{which} are lost in repository {repository}: no moment between them and the base backup made since can be restored"
            );
            let remedy = "nothing brings them back; recovery works from that base backup on";
            Some(Finding::new(Severity::Warning, "wal-gap", message).remedy(remedy))
        }
        GapState::Lost => {
            let message = format!(
                "{which} are lost: neither repository {repository} nor any other place has them, and no recovery gets past them"
            );
            let remedy = "make a new base backup now: `dbagent job run base`; recovery works from it on";
            Some(Finding::new(Severity::Critical, "wal-gap", message).remedy(remedy))
        }
    }
}
