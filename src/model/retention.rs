//! What stays and what goes: a pure decision over the artifacts of one repository, for each system identifier by itself.
//!
//! The rules of each job say what it keeps; then nothing goes that a pin, a lease, the grace time or the retention floor
//! holds, that is the last good one of its job, or that a kept artifact needs. Only *good* artifacts count: verified,
//! with every ancestor there and verified. Of a job that makes whole backups the newest two good ones stay, and while a
//! job has not made a good one for too long nothing of it goes. What was made in the future (a clock that jumped) stays and counts for
//! nothing. Apart from
//! that guard, a decision to expire never turns back as time goes on.
//!
//! Base backups lie on timelines, and the newest one may not lead to where the cluster is now: after a recovery into the
//! past only older ones do. So where the last good one and the beginning of a window are meant, they are meant for each
//! timeline that is still written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, Datelike, TimeDelta, Utc};

use crate::model::id::ArtifactId;
use crate::model::keep::Keep;
use crate::model::lsn::{SystemId, Timeline};
use crate::model::span::Span;
use crate::model::wal_retention::Timelines;

/// An artifact as retention sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its identity.
    pub id: ArtifactId,
    /// The job that made it: its kind.
    pub job: String,
    /// The cluster that it is of.
    pub system: Option<SystemId>,
    /// When it was complete.
    pub finished: DateTime<Utc>,
    /// Whether every stored byte was read back and found right.
    pub verified: bool,
    /// Whether an operator pinned it.
    pub pinned: bool,
    /// Whether a running restore or backup holds it.
    pub leased: bool,
    /// What it builds upon.
    pub parent: Option<ArtifactId>,
    /// Of a base backup: the timelines that a copy of it can be followed to, by what is stored of its own log on the way.
    /// One without any is never good.
    pub leads_to: Option<BTreeSet<Timeline>>,
}

/// What holds for the artifacts of one job. The default keeps for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The job's rules; absent means for ever.
    pub keep: Option<Keep>,
    /// The compliance minimum, where this job in this repository is what fulfils it.
    pub floor: Option<Span>,
    /// Age of the job's newest good artifact beyond which nothing of the job goes: something is wrong with its making.
    /// Absent for a job without a schedule.
    pub overdue_after: Option<TimeDelta>,
}

/// Why an artifact stays or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// An operator pinned it.
    Pinned,
    /// A running restore or backup holds it.
    Leased,
    /// It was finished after now: the clock jumped.
    FromTheFuture,
    /// It may belong to a run that is not over.
    InGrace,
    /// Its job has no rule, or is no longer in the plan.
    NoRule,
    /// It is younger than its age limit.
    Within(Span),
    /// It is within the recovery window.
    InWindow(Span),
    /// The recovery window begins with it.
    StartOfWindow(Span),
    /// It is among the newest so many good ones, or newer.
    AmongNewest(NonZeroU32),
    /// It is in one of the newest so many chains.
    InNewestChain(NonZeroU32),
    /// The last good one of a calendar month: year and month.
    LastOfMonth(i32, u32),
    /// The last good one of a calendar year.
    LastOfYear(i32),
    /// The plan's compliance minimum holds it.
    Floor(Span),
    /// The last good one of its job, or the one before where they are whole backups.
    LastGood,
    /// The last good one that leads to where the cluster is: on to this timeline.
    LastGoodFor(Timeline),
    /// Its job has not made a good one since this instant.
    Overdue(DateTime<Utc>),
    /// The newest of its job, none of which is verified.
    NewestUnverified,
    /// A kept artifact builds upon it.
    NeededBy(ArtifactId),
    /// Outside every rule of its job.
    Expired(Keep),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::Leased => f.write_str("in use by a running restore or backup"),
            Self::FromTheFuture => f.write_str("finished in the future: the clock has jumped"),
            Self::InGrace => f.write_str("younger than the grace time"),
            Self::NoRule => f.write_str("kept for ever: no rule for its job"),
            Self::Within(age) => write!(f, "within {age}"),
            Self::InWindow(window) => write!(f, "within the recovery window of {window}"),
            Self::StartOfWindow(window) => write!(f, "the beginning of the recovery window of {window}"),
            Self::AmongNewest(count) => write!(f, "among the newest {count}"),
            Self::InNewestChain(chains) => write!(f, "in one of the newest {chains} chains"),
            Self::LastOfMonth(year, month) => write!(f, "the last good one of {year:04}-{month:02}"),
            Self::LastOfYear(year) => write!(f, "the last good one of {year:04}"),
            Self::Floor(floor) => write!(f, "held by the retention floor {floor}"),
            Self::LastGood => f.write_str("the last good one"),
            Self::LastGoodFor(timeline) => write!(f, "the last good one that leads to timeline {}", timeline.0),
            Self::Overdue(since) => write!(f, "its job has made no good one since {since:?}"),
            Self::NewestUnverified => f.write_str("the newest one, and none is verified"),
            Self::NeededBy(id) => write!(f, "needed by {id}"),
            Self::Expired(keep) => keep.fmt(f),
        }
    }
}

/// What becomes of one artifact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The artifact.
    pub id: ArtifactId,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: Reason,
}

/// Decides over all artifacts of one repository at `now`, in the order given. `timelines` are those that the repository
/// has WAL of. `policies` are by job; the artifacts of other jobs stay. Artifacts that finished less than `grace` ago stay.
pub fn decide(
    candidates: &[Candidate],
    timelines: &Timelines,
    policies: &BTreeMap<String, Policy>,
    grace: Duration,
    now: DateTime<Utc>,
) -> Vec<Decision> {
    let history = History::of(candidates, timelines, now);
    let mut kept = Kept::new();
    let grace = TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
    for candidate in candidates {
        if let Some(reason) = held(candidate, policies.get(&candidate.job), grace, now) {
            kept.insert(candidate.id, reason);
        }
    }
    for ((job, _), members) in &history.jobs {
        if let Some(keep) = policies.get(*job).and_then(|policy| policy.keep.as_ref()) {
            history.keep_by_rules(members, keep, &mut kept);
        }
        history.keep_last_good(members, &mut kept);
    }
    for (job, policy) in policies {
        history.keep_while_overdue(job, policy, &mut kept);
    }
    history.keep_what_is_needed(&mut kept);
    candidates.iter().map(|candidate| decision(candidate, &kept, policies)).collect()
}

type Kept = BTreeMap<ArtifactId, Reason>;

fn decision(candidate: &Candidate, kept: &Kept, policies: &BTreeMap<String, Policy>) -> Decision {
    let id = candidate.id;
    if let Some(reason) = kept.get(&id) {
        return Decision { id, keep: true, reason: reason.clone() };
    }
    let keep = policies.get(&candidate.job).and_then(|policy| policy.keep.clone());
    keep.map_or(Decision { id, keep: true, reason: Reason::NoRule }, |keep| Decision {
        id,
        keep: false,
        reason: Reason::Expired(keep),
    })
}

/// What holds an artifact whatever else there is.
fn held(candidate: &Candidate, policy: Option<&Policy>, grace: TimeDelta, now: DateTime<Utc>) -> Option<Reason> {
    let lasts = |span: &Span| span.after(candidate.finished) > now;
    let in_grace = candidate.finished.checked_add_signed(grace).is_none_or(|end| end > now);
    let keep = policy.and_then(|policy| policy.keep.as_ref());
    let floor = policy.and_then(|policy| policy.floor);
    [
        (candidate.pinned, Reason::Pinned),
        (candidate.leased, Reason::Leased),
        (candidate.finished > now, Reason::FromTheFuture),
        (in_grace, Reason::InGrace),
        (keep.is_none(), Reason::NoRule),
    ]
    .into_iter()
    .find_map(|(holds, reason)| holds.then_some(reason))
    .or_else(|| keep?.age.filter(lasts).map(Reason::Within))
    .or_else(|| keep?.window.filter(lasts).map(Reason::InWindow))
    .or_else(|| floor.filter(lasts).map(Reason::Floor))
}

/// The artifacts in the order that the rules need.
struct History<'a> {
    by_id: BTreeMap<ArtifactId, &'a Candidate>,
    /// By job and system, without those of the future, newest first.
    jobs: BTreeMap<(&'a str, Option<SystemId>), Vec<&'a Candidate>>,
    good: BTreeSet<ArtifactId>,
    timelines: &'a Timelines,
    now: DateTime<Utc>,
}

impl<'a> History<'a> {
    fn of(candidates: &'a [Candidate], timelines: &'a Timelines, now: DateTime<Utc>) -> Self {
        let by_id = candidates.iter().map(|candidate| (candidate.id, candidate)).collect();
        let mut jobs: BTreeMap<_, Vec<&Candidate>> = BTreeMap::new();
        for candidate in candidates.iter().filter(|candidate| candidate.finished <= now) {
            jobs.entry((candidate.job.as_str(), candidate.system)).or_default().push(candidate);
        }
        for members in jobs.values_mut() {
            members.sort_by_key(|member| std::cmp::Reverse((member.finished, member.id)));
        }
        let mut history = Self { by_id, jobs, good: BTreeSet::new(), timelines, now };
        history.good = candidates.iter().filter(|c| history.is_good(c)).map(|c| c.id).collect();
        history
    }

    /// The artifact and its ancestors as far as they are there; ends where parents run in a circle.
    fn line(&self, candidate: &'a Candidate) -> impl Iterator<Item = &'a Candidate> {
        let parent = |child: &&'a Candidate| child.parent.and_then(|id| self.by_id.get(&id).copied());
        std::iter::successors(Some(candidate), parent).take(self.by_id.len())
    }

    fn is_good(&self, candidate: &'a Candidate) -> bool {
        // What it builds upon needs no log of its own any more.
        candidate.leads_to.as_ref().is_none_or(|timelines| !timelines.is_empty())
            && self.line(candidate).all(|ancestor| ancestor.verified)
            && self.line(candidate).last().is_some_and(|root| root.parent.is_none())
    }

    fn keep_by_rules(&self, members: &[&'a Candidate], keep: &Keep, kept: &mut Kept) {
        if let Some(window) = keep.window {
            self.keep_start_of_window(members, window, kept);
        }
        if let Some(count) = keep.count {
            hold(self.newest(members, count).copied(), kept, |_| Reason::AmongNewest(count));
        }
        if let Some(chains) = keep.chains {
            let newest = self.newest_chains(members, chains);
            let is_newest = |root: &Candidate| root.finished > self.now || newest.contains(&root.id);
            let in_chain = |member: &&&Candidate| self.line(member).last().is_some_and(is_newest);
            hold(members.iter().filter(in_chain).copied(), kept, |_| Reason::InNewestChain(chains));
        }
        if let Some(months) = keep.monthly {
            let period = |at: DateTime<Utc>| (at.year(), at.month());
            let last = self.last_of_periods(members, months, period);
            hold(last, kept, |member| Reason::LastOfMonth(member.finished.year(), member.finished.month()));
        }
        if let Some(years) = keep.yearly {
            let last = self.last_of_periods(members, years, |at| (at.year(), 0));
            hold(last, kept, |member| Reason::LastOfYear(member.finished.year()));
        }
    }

    /// The newest good one from before the window; when there is none, all of them, for nothing else begins it.
    fn keep_start_of_window(&self, members: &[&'a Candidate], window: Span, kept: &mut Kept) {
        let before = |member: &&&'a Candidate| window.after(member.finished) <= self.now;
        let start = members.iter().filter(before).find(|member| self.good.contains(&member.id));
        let oldest = start.map(|start| (start.finished, start.id));
        let needed = members.iter().filter(|member| oldest.is_none_or(|oldest| (member.finished, member.id) == oldest));
        hold(needed.copied(), kept, |_| Reason::StartOfWindow(window));
        let written = self.timelines.stored.iter().filter(|(_, stored)| window.after(**stored) > self.now);
        for timeline in written.map(|(timeline, _)| *timeline).chain(self.timelines.newest()) {
            let start = members.iter().filter(before).find(|member| self.leads_to(member, timeline));
            hold(start.copied(), kept, |_| Reason::StartOfWindow(window));
        }
    }

    /// Whether `member` is a good base backup from which recovery can go on to `timeline`.
    fn leads_to(&self, member: &Candidate, timeline: Timeline) -> bool {
        let leads = member.leads_to.as_ref().is_some_and(|timelines| timelines.contains(&timeline));
        leads && self.good.contains(&member.id)
    }

    /// `members`, newest first, down to the good one with which so many are there.
    fn newest<'b>(&self, members: &'b [&'a Candidate], wanted: NonZeroU32) -> std::slice::Iter<'b, &'a Candidate> {
        let good = members.iter().enumerate().filter(|(_, member)| self.good.contains(&member.id));
        let last = good.map(|(at, _)| at).nth(wanted.get() as usize - 1);
        members[..last.map_or(members.len(), |last| last + 1)].iter()
    }

    /// The roots of the newest chains that `members` belong to. A root is what has no parent here; it may be of
    /// another job, whose roots then are the chains to count.
    fn newest_chains(&self, members: &[&'a Candidate], chains: NonZeroU32) -> BTreeSet<ArtifactId> {
        let is_root = |candidate: &Candidate| candidate.parent.is_none_or(|parent| !self.by_id.contains_key(&parent));
        let root_jobs: BTreeSet<(&str, Option<SystemId>)> = members
            .iter()
            .filter_map(|member| self.line(member).last())
            .map(|root| (root.job.as_str(), root.system))
            .collect();
        let mut newest = BTreeSet::new();
        for job in root_jobs {
            let roots: Vec<_> =
                self.jobs.get(&job).into_iter().flatten().copied().filter(|root| is_root(root)).collect();
            newest.extend(self.newest(&roots, chains).map(|root| root.id));
        }
        newest
    }

    /// The newest good one of each of the newest `wanted` periods that have one.
    fn last_of_periods(
        &self,
        members: &[&'a Candidate],
        wanted: NonZeroU32,
        period: impl Fn(DateTime<Utc>) -> (i32, u32),
    ) -> Vec<&'a Candidate> {
        let mut last: Vec<&Candidate> = Vec::new();
        for member in members.iter().filter(|member| self.good.contains(&member.id)) {
            let new = last.last().is_none_or(|newer| period(newer.finished) != period(member.finished));
            if new && last.len() < wanted.get() as usize {
                last.push(member);
            } else if new {
                break;
            }
        }
        last
    }

    /// The newest good one, the one before if the newest is whole by itself, and the newest verified one; where nothing
    /// is verified, the newest.
    fn keep_last_good(&self, members: &[&'a Candidate], kept: &mut Kept) {
        let mut good = members.iter().filter(|member| self.good.contains(&member.id));
        let newest = good.next();
        let before = good.next().filter(|_| newest.is_some_and(|newest| newest.parent.is_none()));
        let verified = members.iter().find(|member| member.verified);
        hold(newest.into_iter().chain(before).chain(verified).copied(), kept, |_| Reason::LastGood);
        if let Some(timeline) = self.timelines.newest() {
            let last = members.iter().find(|member| self.leads_to(member, timeline));
            hold(last.copied(), kept, |_| Reason::LastGoodFor(timeline));
        }
        if verified.is_none() {
            hold(members.first().copied(), kept, |_| Reason::NewestUnverified);
        }
    }

    /// All of a job whose newest good one, of whatever system, is too old.
    fn keep_while_overdue(&self, job: &str, policy: &Policy, kept: &mut Kept) {
        let members =
            || self.jobs.iter().filter(|((other, _), _)| *other == job).flat_map(|(_, members)| members).copied();
        let good = members().filter(|member| self.good.contains(&member.id));
        let Some(newest) = good.map(|member| member.finished).max() else { return };
        if policy.overdue_after.is_some_and(|limit| self.now - newest > limit) {
            hold(members(), kept, |_| Reason::Overdue(newest));
        }
    }

    fn keep_what_is_needed(&self, kept: &mut Kept) {
        let mut keepers: Vec<&Candidate> = self.by_id.values().copied().filter(|c| kept.contains_key(&c.id)).collect();
        keepers.sort_by_key(|keeper| std::cmp::Reverse((keeper.finished, keeper.id)));
        for keeper in keepers {
            hold(self.line(keeper).skip(1), kept, |_| Reason::NeededBy(keeper.id));
        }
    }
}

/// Keeps each of `members`, unless something holds it already.
fn hold<'a>(members: impl IntoIterator<Item = &'a Candidate>, kept: &mut Kept, reason: impl Fn(&Candidate) -> Reason) {
    for member in members {
        kept.entry(member.id).or_insert_with(|| reason(member));
    }
}
