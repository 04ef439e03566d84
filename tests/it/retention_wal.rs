//! Retention of base backups and WAL over random histories of clusters that were taken back in time: no moment that could
//! be restored, and that the rules promise, is ever lost.
//!
//! What can be restored is worked out here from first principles, segment by segment along each timeline, and never by the
//! code that is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dbagent::model::id::ArtifactId;
use dbagent::model::keep::Keep;
use dbagent::model::lsn::{Lsn, Timeline};
use dbagent::model::retention::{Candidate, Policy, Reason, decide};
use dbagent::model::span::Span;
use dbagent::model::timeline::{TimelineHistory, TimelineSwitch, TimelineTree};
use dbagent::model::wal::{SegmentName, SegmentRange, SegmentSize, WalFile};
use dbagent::model::wal_retention::{Need, Place, Timelines, Until, WalReason, WalRule};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MIB: u64 = 1 << 20;
const GRACE: Duration = Duration::from_secs(3600);
const JOBS: [&str; 2] = ["base", "base-incremental"];

fn size() -> SegmentSize {
    SegmentSize::new(MIB).unwrap()
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn now() -> DateTime<Utc> {
    at("2025-03-01T00:00:00Z")
}

/// A base backup: on which timeline, from which segment to which.
#[derive(Clone, Debug)]
struct Base {
    candidate: Candidate,
    timeline: Timeline,
    first: u64,
    last: u64,
}

impl Base {
    fn place(&self) -> Place {
        Place { timeline: self.timeline, stop: stop_of(self.last) }
    }
}

/// One repository.
#[derive(Clone, Debug)]
struct World {
    /// Where each timeline begins: its ancestors.
    tree: TimelineTree,
    histories: BTreeSet<Timeline>,
    /// Every segment that is stored, by timeline and number, with the hour at which it was, counted from the oldest.
    segments: BTreeMap<(Timeline, u64), i64>,
    bases: Vec<Base>,
    policies: BTreeMap<String, Policy>,
}

fn hour(hour: i64) -> DateTime<Utc> {
    at("2025-01-01T00:00:00Z") + TimeDelta::hours(hour)
}

impl World {
    fn timelines(&self) -> Timelines {
        let mut stored: BTreeMap<Timeline, DateTime<Utc>> = BTreeMap::new();
        for ((timeline, _), stored_at) in &self.segments {
            let newest = stored.entry(*timeline).or_insert(hour(*stored_at));
            *newest = (*newest).max(hour(*stored_at));
        }
        let mut tree = TimelineTree::default();
        for history in self.tree.histories().filter(|history| self.histories.contains(&history.timeline())) {
            tree.insert(history.clone()).unwrap();
        }
        Timelines { tree, stored }
    }

    fn has(&self, segment: SegmentName) -> bool {
        self.segments.contains_key(&(segment.timeline(), segment.number(size()).unwrap()))
    }

    /// What recovery along `timeline` reads for segment `number`.
    fn segment(&self, timeline: Timeline, number: u64) -> SegmentName {
        let own = || SegmentName::of_number(timeline, number, size());
        self.tree.get(timeline).map_or_else(own, |history| history.segment(number, size()))
    }

    /// By the words: PostgreSQL follows `timeline` from `base`, if it is on the way and its history can be read.
    fn leads_to(&self, base: &Base, timeline: Timeline) -> bool {
        if timeline.0 > 1 && !self.histories.contains(&timeline) {
            return false;
        }
        let ancestors = self.tree.get(timeline).map_or(&[][..], TimelineHistory::ancestors);
        let left = ancestors.iter().find(|switch| switch.timeline == base.timeline);
        base.timeline == timeline || left.is_some_and(|left| stop_of(base.last) <= left.left_at)
    }

    /// The numbers of the segments that `base` can be followed to along `timeline` without a gap; none when a copy of it
    /// cannot even become consistent.
    fn reach(&self, base: &Base, timeline: Timeline) -> Option<std::ops::RangeInclusive<u64>> {
        if !self.leads_to(base, timeline) {
            return None;
        }
        let mut next = base.first;
        while self.has(self.segment(timeline, next)) {
            next += 1;
        }
        (next > base.last).then(|| base.last..=next - 1)
    }

    fn is_good(&self, base: &Base) -> bool {
        if self.every_timeline().into_iter().all(|timeline| self.reach(base, timeline).is_none()) {
            return false;
        }
        let mut candidate = &base.candidate;
        for _ in 0..=self.bases.len() {
            if !candidate.verified {
                return false;
            }
            let Some(parent) = candidate.parent else { return true };
            let Some(found) = self.bases.iter().find(|other| other.candidate.id == parent) else { return false };
            candidate = &found.candidate;
        }
        false
    }

    /// Every moment, as timeline and segment, that some good base backup of `job` can be followed to.
    fn restorable(&self, job: &str) -> BTreeSet<(Timeline, u64)> {
        let mut moments = BTreeSet::new();
        let timelines = self.every_timeline();
        for base in self.bases.iter().filter(|base| base.candidate.job == job && self.is_good(base)) {
            for timeline in timelines.iter().copied() {
                let Some(reach) = self.reach(base, timeline) else { continue };
                let ends = reach.map(|number| self.segment(timeline, number));
                moments.extend(ends.map(|segment| (segment.timeline(), segment.number(size()).unwrap())));
            }
        }
        moments
    }

    fn every_timeline(&self) -> BTreeSet<Timeline> {
        let from = |timeline: u32| self.segments.range((Timeline(timeline), 0)..).next().map(|((found, _), _)| *found);
        let with_segments = std::iter::successors(from(0), |timeline| from(timeline.0 + 1));
        with_segments.chain(self.histories.iter().copied()).collect()
    }

    fn ranges(&self) -> Vec<SegmentRange> {
        let mut ranges: BTreeMap<Timeline, Vec<SegmentRange>> = BTreeMap::new();
        for (timeline, number) in self.segments.keys() {
            let name = SegmentName::of_number(*timeline, *number, size());
            let ranges = ranges.entry(*timeline).or_default();
            match ranges.last_mut() {
                Some(range) if range.last.next(size()) == Some(name) => range.last = name,
                _ => ranges.push(SegmentRange { first: name, last: name }),
            }
        }
        ranges.into_values().flatten().collect()
    }

    /// The candidates as expiry makes them.
    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |base: &Base| {
            let leads_to = self.every_timeline().into_iter().filter(|timeline| self.reach(base, *timeline).is_some());
            Candidate { leads_to: Some(leads_to.collect()), ..base.candidate.clone() }
        };
        self.bases.iter().map(candidate).collect()
    }

    /// What an expiry leaves.
    fn expired(&self, now: DateTime<Utc>) -> Self {
        let timelines = self.timelines();
        let decisions = decide(&self.candidates(), &timelines, &self.policies, GRACE, now);
        let kept = self.bases.iter().zip(decisions).filter(|(_, decision)| decision.keep);
        let bases: Vec<Base> = kept.map(|(base, _)| base.clone()).collect();
        let need = |base: &Base| Need {
            id: base.candidate.id,
            place: base.place(),
            first: SegmentName::of_number(base.timeline, base.first, size()),
            until: None,
        };
        let rule = WalRule {
            needs: bases.iter().map(need).collect(),
            timelines,
            grace_begins: now - TimeDelta::from_std(GRACE).unwrap(),
            base_refused: false,
        };
        let mut left = Self { bases, segments: BTreeMap::new(), ..self.clone() };
        for range in self.ranges() {
            for (piece, decision) in rule.judge_range(range, size()) {
                for segment in [piece.first, piece.last] {
                    assert_eq!(rule.judge(WalFile::Segment(segment)), decision, "{segment} of {piece:?}");
                }
                for segment in piece.segments(size()) {
                    let key = (segment.timeline(), segment.number(size()).unwrap());
                    if decision.keep {
                        left.segments.insert(key, self.segments[&key]);
                    }
                }
            }
        }
        left.histories.retain(|timeline| rule.judge(WalFile::History(*timeline)).keep);
        left
    }
}

/// A backup ends in the middle of its last segment.
fn stop_of(last: u64) -> Lsn {
    Lsn(last * MIB + MIB / 2)
}

fn random_keep(random: &mut StdRng) -> Keep {
    let count = |random: &mut StdRng| NonZeroU32::new(random.random_range(1..4));
    let mut keep = Keep::default();
    match random.random_range(0..6) {
        0 => keep.age = Some(Span::days(random.random_range(1..50))),
        1 => keep.count = count(random),
        2 => keep.chains = count(random),
        _ => keep.window = Some(Span::days(random.random_range(1..50))),
    }
    keep
}

/// Timelines that branch off one another, each with a segment every few hours; sometimes one that is left goes on for a
/// while, as when nobody stopped the old primary.
fn random_segments(random: &mut StdRng, world: &mut World) {
    let mut clock: i64 = 0;
    let mut spans: Vec<(Timeline, u64, u64)> = Vec::new();
    for id in 1..=random.random_range(1..6_u32) {
        let timeline = Timeline(id);
        let mut first = 1;
        if id > 1 {
            let (parent, begins, ends) = spans[random.random_range(0..spans.len())];
            first = random.random_range(begins..=ends);
            let mut ancestors = world.tree.history(parent).ancestors().to_vec();
            let left_at = Lsn(first * MIB + random.random_range(1..MIB));
            ancestors.push(TimelineSwitch { timeline: parent, left_at, reason: "test".into() });
            let Ok(history) = TimelineHistory::new(timeline, ancestors) else { continue };
            world.tree.insert(history).unwrap();
            world.histories.insert(timeline);
        }
        let last = first + random.random_range(0..20);
        let every = random.random_range(1..30);
        for number in first..=last {
            clock += random.random_range(0..=every);
            world.segments.insert((timeline, number), clock);
        }
        spans.push((timeline, first, last));
        if random.random_bool(0.2) {
            clock -= random.random_range(0..=every);
        }
    }
    // The last one was stored before now, or is from the future.
    let shift = 1416 - clock + if random.random_bool(0.05) { 10 } else { -random.random_range(0..100) };
    world.segments.values_mut().for_each(|stored| *stored += shift);
}

fn random_bases(random: &mut StdRng, world: &mut World) {
    let all: Vec<((Timeline, u64), i64)> = world.segments.iter().map(|(key, stored)| (*key, *stored)).collect();
    for _ in 0..random.random_range(0..9) {
        let ((timeline, first), _) = all[random.random_range(0..all.len())];
        let mut last = first + random.random_range(0..3);
        while !world.segments.contains_key(&(timeline, last)) {
            last -= 1;
        }
        // A backup of a timeline begins where that timeline's own log is, and ends before it is left. No two end at one
        // instant, and of those that end within the hour of one timeline the one that ends further on is the later.
        let within_the_hour = TimeDelta::seconds(10 * last as i64 + world.bases.len() as i64);
        let finished = hour(world.segments[&(timeline, last)]) + within_the_hour;
        let job = JOBS[random.random_range(0..2)];
        let fits =
            |base: &&Base| world.leads_to(base, timeline) && base.last <= first && base.candidate.finished < finished;
        let older: Vec<ArtifactId> = world.bases.iter().filter(fits).map(|base| base.candidate.id).collect();
        let parent = (job == JOBS[1] && !older.is_empty()).then(|| older[random.random_range(0..older.len())]);
        let candidate = Candidate {
            id: ArtifactId::new(finished),
            job: job.to_owned(),
            system: None,
            finished,
            verified: random.random_bool(0.85),
            pinned: random.random_bool(0.03),
            leased: random.random_bool(0.03),
            parent,
            leads_to: None,
        };
        world.bases.push(Base { candidate, timeline, first, last });
    }
}

fn random_world(random: &mut StdRng) -> World {
    let mut world = World {
        tree: TimelineTree::default(),
        histories: BTreeSet::new(),
        segments: BTreeMap::new(),
        bases: Vec::new(),
        policies: BTreeMap::new(),
    };
    random_segments(random, &mut world);
    random_bases(random, &mut world);
    if random.random_bool(0.3) {
        let keys: Vec<_> = world.segments.keys().copied().collect();
        for _ in 0..random.random_range(1..4) {
            world.segments.remove(&keys[random.random_range(0..keys.len())]);
        }
    }
    let policy = |random: &mut StdRng| Policy {
        keep: random.random_bool(0.95).then(|| random_keep(random)),
        floor: None,
        overdue_after: random.random_bool(0.1).then(|| TimeDelta::days(10)),
    };
    world.policies = JOBS.iter().map(|job| ((*job).to_owned(), policy(random))).collect();
    world
}

/// Everything owed, over one history. How many segments, base backups and histories went.
fn assert_promises(world: &World, later: DateTime<Utc>) -> (usize, usize, usize) {
    let left = world.expired(now());
    // What a kept base backup can use of the WAL is there as before, and so is every history on the way.
    let last = world.segments.keys().map(|(_, number)| *number).max().unwrap_or_default();
    for base in &left.bases {
        for timeline in world.every_timeline().into_iter().filter(|timeline| world.leads_to(base, *timeline)) {
            assert!(left.leads_to(base, timeline), "{base:?} no longer leads to timeline {}", timeline.0);
            for number in base.first..=last {
                let segment = world.segment(timeline, number);
                assert!(!world.has(segment) || left.has(segment), "{base:?} lost {segment} on the way to {timeline:?}");
            }
        }
        let parent = base.candidate.parent.filter(|parent| world.bases.iter().any(|each| each.candidate.id == *parent));
        assert!(parent.is_none_or(|parent| left.bases.iter().any(|each| each.candidate.id == parent)), "{base:?}");
    }
    // PostgreSQL looks for the newest timeline one by one.
    if let Some(oldest) = left.bases.iter().map(|base| base.timeline).min() {
        let hole = world.histories.iter().find(|timeline| **timeline >= oldest && !left.histories.contains(timeline));
        assert_eq!(hole, None, "a hole among the histories hides what is beyond it");
    } else {
        assert_eq!(left.segments.len(), world.segments.len(), "without a base backup nothing says what is needed");
    }
    let newest = world.every_timeline().into_iter().max();
    for job in JOBS {
        let (before, after) = (world.restorable(job), left.restorable(job));
        let gone: BTreeSet<_> = before.difference(&after).collect();
        if let Some(window) = world.policies[job].keep.as_ref().and_then(|keep| keep.window) {
            let within = gone.iter().find(|moment| window.after(hour(world.segments[**moment])) > now());
            assert_eq!(within, None, "{job} loses a moment of its window");
        }
        let last = before.iter().filter(|(timeline, _)| Some(*timeline) == newest).max();
        assert!(
            last.is_none_or(|last| after.contains(last)),
            "{job} no longer leads to where the cluster is: {last:?}"
        );
        assert!(before.is_empty() || !after.is_empty(), "nothing of {job} can be restored any more");
    }
    let again = left.expired(now());
    assert_eq!((again.segments.len(), again.bases.len()), (left.segments.len(), left.bases.len()), "a second expiry");
    assert_eq!(again.histories, left.histories, "a second expiry");
    let much_later = left.expired(later);
    assert!(much_later.segments.keys().all(|key| left.segments.contains_key(key)));
    (
        world.segments.len() - left.segments.len(),
        world.bases.len() - left.bases.len(),
        world.histories.len() - left.histories.len(),
    )
}

fn assert_promises_over(seed: u64, worlds: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut went = (0, 0, 0);
    for nth in 0..worlds {
        let world = random_world(&mut random);
        let later = now() + TimeDelta::hours(random.random_range(0..2000));
        let run = std::panic::AssertUnwindSafe(|| assert_promises(&world, later));
        let done = std::panic::catch_unwind(run);
        assert!(done.is_ok(), "history {nth} of seed {seed} breaks a promise: {world:#?}");
        let (segments, bases, histories) = done.unwrap();
        went = (went.0 + segments, went.1 + bases, went.2 + histories);
    }
    assert!(went.0 > worlds && went.1 > worlds / 4 && went.2 > worlds / 100, "too little was let go: {went:?}");
}

#[test]
fn g5_no_moment_of_the_window_is_lost_over_ten_thousand_random_histories() {
    let halves = [11, 12].map(|seed| std::thread::spawn(move || assert_promises_over(seed, 5_000)));
    halves.into_iter().for_each(|half| half.join().unwrap());
}

#[cfg(feature = "long")]
#[test]
fn g5_no_moment_of_the_window_is_lost_over_a_million_random_histories() {
    let parts = (100..116).map(|seed| std::thread::spawn(move || assert_promises_over(seed, 62_500)));
    parts.collect::<Vec<_>>().into_iter().for_each(|part| part.join().unwrap());
}

/// Timeline 1 to segment 20; base backups at 2, 8 and 14; then the cluster is taken back to segment 6: timeline 2.
fn taken_back() -> World {
    let mut tree = TimelineTree::default();
    tree.insert(TimelineHistory::parse(Timeline(2), "1\t0/600100\tbefore the accident\n").unwrap()).unwrap();
    let day = |day: i64| 24 * day;
    let mut segments: BTreeMap<(Timeline, u64), i64> =
        (1..=20).map(|number| ((Timeline(1), number), day(number as i64))).collect();
    segments.extend((6..=30).map(|number| ((Timeline(2), number), day(number as i64 + 20))));
    let base = |timeline: u32, first: u64, finished: i64| {
        let finished = hour(finished);
        let candidate = Candidate {
            id: ArtifactId::new(finished),
            job: "base".into(),
            system: None,
            finished,
            verified: true,
            pinned: false,
            leased: false,
            parent: None,
            leads_to: None,
        };
        Base { candidate, timeline: Timeline(timeline), first, last: first }
    };
    World {
        tree,
        histories: BTreeSet::from([Timeline(2)]),
        segments,
        bases: vec![base(1, 2, day(2)), base(1, 8, day(8)), base(1, 14, day(14))],
        policies: BTreeMap::new(),
    }
}

fn keep(world: &mut World, rule: &str) {
    let keep: BTreeMap<String, Keep> = toml::from_str(&format!("keep = {rule}")).unwrap();
    let policy = Policy { keep: keep.get("keep").cloned(), floor: None, overdue_after: None };
    world.policies.insert("base".into(), policy);
}

#[test]
fn f60_after_a_recovery_into_the_past_the_base_backup_that_leads_to_the_present_stays() {
    let mut world = taken_back();
    keep(&mut world, "{ count = 1 }");
    let decisions = decide(&world.candidates(), &world.timelines(), &world.policies, GRACE, hour(24 * 51));
    let reasons: Vec<_> = decisions.iter().map(|decision| decision.reason.to_string()).collect();
    assert_eq!(reasons, ["the last good one that leads to timeline 2", "the last good one", "among the newest 1"]);
    assert!(decisions.iter().all(|decision| decision.keep));
    assert_eq!(decisions[0].reason, Reason::LastGoodFor(Timeline(2)));
}

#[test]
fn f60_a_window_begins_on_every_timeline_that_was_written_in_it() {
    let mut world = taken_back();
    keep(&mut world, "{ window = \"35 days\" }");
    // The window begins on day 16: the newest base backup before it is on timeline 1, and does not lead to timeline 2.
    let decisions = decide(&world.candidates(), &world.timelines(), &world.policies, GRACE, hour(24 * 51));
    let kept: Vec<bool> = decisions.iter().map(|decision| decision.keep).collect();
    assert_eq!(kept, [true, true, true]);
    assert_eq!(decisions[0].reason.to_string(), "the beginning of the recovery window of 35 days");
}

#[test]
fn wal_goes_from_below_and_a_branch_that_nothing_reaches_goes_whole() {
    let mut world = taken_back();
    keep(&mut world, "{ count = 1 }");
    let on_two = |first: u64| {
        let mut base = world.bases[0].clone();
        let finished = hour(24 * (first as i64 + 20));
        (base.timeline, base.first, base.last) = (Timeline(2), first, first);
        base.candidate.id = ArtifactId::new(finished);
        base.candidate.finished = finished;
        base
    };
    world.bases = vec![world.bases[0].clone(), on_two(10), on_two(20)];
    let left = world.expired(hour(24 * 51));
    assert_eq!(left.bases.len(), 2, "the two newest good ones");
    let numbers = |world: &World, timeline: u32| {
        let of = world.segments.keys().filter(|(each, _)| each.0 == timeline);
        of.map(|(_, number)| *number).collect::<Vec<_>>()
    };
    assert_eq!((numbers(&left, 1), numbers(&left, 2)), (vec![], (10..=30).collect()));
    assert!(left.histories.contains(&Timeline(2)), "the history of what is kept");
}

#[test]
fn after_an_upgrade_the_old_clusters_base_backup_holds_its_own_log_only() {
    let world = taken_back();
    let id = |nth: usize| world.bases[nth].candidate.id;
    let segment = |number| SegmentName::of_number(Timeline(1), number, size());
    let need = |nth: usize, first: u64, until: Option<u64>| Need {
        id: id(nth),
        place: Place { timeline: Timeline(1), stop: stop_of(first) },
        first: segment(first),
        until: until.map(|until| Until { segment: segment(until), position: segment(until).start(size()).unwrap() }),
    };
    let judge = |needs: Vec<Need>| {
        let timelines = world.timelines();
        let rule = WalRule { needs, timelines, grace_begins: hour(24 * 60), base_refused: false };
        let pieces = rule.judge_range(SegmentRange { first: segment(1), last: segment(20) }, size());
        let number = |segment: SegmentName| segment.number(size()).unwrap();
        let pieces = pieces.into_iter().map(|(range, decision)| (number(range.first), number(range.last), decision));
        pieces.map(|(first, last, decision)| (first, last, decision.keep, decision.reason)).collect::<Vec<_>>()
    };
    let begun = [(1, 1, false, WalReason::Before(id(0))), (2, 20, true, WalReason::NeededBy(id(0)))];
    assert_eq!(judge(vec![need(0, 2, Some(8))]), begun, "nothing of the new one's goes before its first base backup");
    let expected = [
        (1, 1, false, WalReason::Before(id(0))),
        (2, 7, true, WalReason::NeededBy(id(0))),
        (8, 13, false, WalReason::Before(id(2))),
        (14, 20, true, WalReason::NeededBy(id(2))),
    ];
    assert_eq!(judge(vec![need(0, 2, Some(8)), need(2, 14, None)]), expected);
}

#[test]
fn what_nobody_can_judge_stays() {
    let world = taken_back();
    let need = |base: &Base| Need {
        id: base.candidate.id,
        place: base.place(),
        first: SegmentName::of_number(base.timeline, base.first, size()),
        until: None,
    };
    let rule = WalRule {
        needs: vec![need(&world.bases[2])],
        timelines: world.timelines(),
        grace_begins: hour(24 * 60),
        base_refused: false,
    };
    let judge = |rule: &WalRule, name: &str| {
        let decision = rule.judge(name.parse().unwrap());
        (decision.keep, decision.reason)
    };
    let old = "000000010000000000000003";
    let id = world.bases[2].candidate.id;
    assert_eq!(judge(&rule, old), (false, WalReason::Before(id)));
    assert_eq!(judge(&rule, "00000001000000000000000E"), (true, WalReason::NeededBy(id)));
    assert_eq!(judge(&rule, "000000020000000000000006"), (true, WalReason::NewestTimeline));
    assert_eq!(judge(&rule, "000000010000000000000003.00000028.backup"), (false, WalReason::Before(id)));
    assert_eq!(judge(&rule, "000000010000000000000003.partial"), (false, WalReason::Before(id)));
    assert_eq!(judge(&rule, "00000002.history"), (true, WalReason::TimelineInUse));
    assert_eq!(judge(&rule, "000000050000000000000003"), (true, WalReason::NoHistory));
    let refused = WalRule { base_refused: true, ..rule.clone() };
    assert_eq!(judge(&refused, old), (true, WalReason::BaseRefused));
    let none = WalRule { needs: Vec::new(), ..rule.clone() };
    assert_eq!(judge(&none, old), (true, WalReason::NoBase));
    // A branch beside the newest timeline, that was written a moment ago.
    let mut timelines = world.timelines();
    let third = TimelineHistory::parse(Timeline(3), "1\t0/600200\ta third try\n").unwrap();
    timelines.tree.insert(third).unwrap();
    timelines.stored.insert(Timeline(3), hour(0));
    let rule = WalRule { timelines, ..rule };
    assert_eq!(judge(&rule, "000000020000000000000006"), (false, WalReason::OutOfReach));
    let young = WalRule { grace_begins: hour(24), ..rule };
    assert_eq!(judge(&young, "000000020000000000000006"), (true, WalReason::InGrace));
}
