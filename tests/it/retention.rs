//! Retention over random histories: what it must never remove, and that it never turns back.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use dbagent::model::id::ArtifactId;
use dbagent::model::keep::Keep;
use dbagent::model::lsn::SystemId;
use dbagent::model::retention::{self, Candidate, Decision, Policy, Reason};
use dbagent::model::span::Span;
use dbagent::model::wal_retention::Timelines;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const GRACE: Duration = Duration::from_secs(3600);

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

/// Decides over artifacts that lie on no timeline.
fn decide(
    candidates: &[Candidate],
    policies: &BTreeMap<String, Policy>,
    grace: Duration,
    now: DateTime<Utc>,
) -> Vec<Decision> {
    retention::decide(candidates, &Timelines::default(), policies, grace, now)
}

fn candidate(job: &str, finished: DateTime<Utc>, verified: bool) -> Candidate {
    let id = ArtifactId::new(finished);
    Candidate {
        id,
        job: job.to_owned(),
        system: None,
        finished,
        verified,
        pinned: false,
        leased: false,
        parent: None,
        leads_to: None,
    }
}

fn policies(keep: &str) -> BTreeMap<String, Policy> {
    let keep: BTreeMap<String, Keep> = toml::from_str(&format!("keep = {keep}")).unwrap();
    BTreeMap::from([("full".to_owned(), Policy { keep: keep.get("keep").cloned(), floor: None, overdue_after: None })])
}

/// Verified artifacts of one job, `days` apart, the newest at `newest`, newest first.
fn series(newest: &str, days: i64, count: i64) -> Vec<Candidate> {
    (0..count).map(|nth| candidate("full", at(newest) - TimeDelta::days(days * nth), true)).collect()
}

fn sentences(candidates: &[Candidate], policies: &BTreeMap<String, Policy>, now: &str) -> Vec<String> {
    let decisions = decide(candidates, policies, GRACE, at(now));
    decisions.iter().map(|d| format!("{} {}", if d.keep { "keep" } else { "expire" }, d.reason)).collect()
}

#[test]
fn an_age_keeps_to_the_instant() {
    let history = series("2025-11-30T03:00:00Z", 10, 5);
    let third = |now| sentences(&history, &policies("\"30 days\""), now)[2].clone();
    assert_eq!(third("2025-12-10T02:59:59Z"), "keep within 30 days");
    assert_eq!(third("2025-12-10T03:00:00Z"), "expire older than 30 days");
}

#[test]
fn two_good_ones_stay_however_old_they_are() {
    let mut history = series("2025-01-03T03:00:00Z", 1, 4);
    assert_eq!(
        sentences(&history, &policies("\"1 day\""), "2025-06-01T00:00:00Z"),
        ["keep the last good one", "keep the last good one", "expire older than 1 day", "expire older than 1 day"]
    );
    history[1].verified = false;
    assert_eq!(
        sentences(&history, &policies("{ count = 1 }"), "2025-06-01T00:00:00Z"),
        [
            "keep among the newest 1",
            "expire beyond the newest 1",
            "keep the last good one",
            "expire beyond the newest 1"
        ]
    );
}

#[test]
fn nothing_of_a_job_goes_while_it_makes_no_good_ones() {
    let mut history = series("2025-01-10T03:00:00Z", 1, 5);
    let mut rules = policies("\"2 days\"");
    rules.get_mut("full").unwrap().overdue_after = Some(TimeDelta::days(2));
    let going = |history: &[Candidate], now| {
        sentences(history, &rules, now).iter().filter(|sentence| sentence.starts_with("expire")).count()
    };
    assert_eq!(going(&history, "2025-01-12T03:00:00Z"), 3);
    assert_eq!(going(&history, "2025-01-12T03:00:01Z"), 0);
    assert_eq!(
        sentences(&history, &rules, "2025-02-01T00:00:00Z")[4],
        "keep its job has made no good one since 2025-01-10T03:00:00Z"
    );
    history[0].verified = false;
    assert_eq!(going(&history, "2025-01-12T03:00:00Z"), 0, "the newest good one is a day older now");
}

#[test]
fn each_cluster_of_a_repository_keeps_its_own() {
    let mut history = series("2025-01-10T03:00:00Z", 1, 6);
    for candidate in &mut history[3..] {
        candidate.system = Some(SystemId(1));
    }
    let decisions = decide(&history, &policies("{ count = 1 }"), GRACE, at("2025-06-01T00:00:00Z"));
    let stays: Vec<bool> = decisions.iter().map(|decision| decision.keep).collect();
    assert_eq!(stays, [true, true, false, true, true, false]);
}

#[test]
fn a_day_of_increments_keeps_what_it_builds_upon_and_nothing_older() {
    let mut history: Vec<Candidate> = Vec::new();
    for day in 0..3 {
        let full = candidate("full", at("2025-11-01T03:00:00Z") + TimeDelta::days(day), true);
        let mut parent = full.id;
        history.push(full);
        for hour in 1..24 {
            let finished = at("2025-11-01T03:00:00Z") + TimeDelta::days(day) + TimeDelta::hours(hour);
            let next = Candidate { parent: Some(parent), ..candidate("increments", finished, true) };
            parent = next.id;
            history.push(next);
        }
    }
    let mut rules = policies("{ count = 1 }");
    rules.extend(policies("\"24 hours\"").remove("full").map(|policy| ("increments".to_owned(), policy)));
    let decisions = decide(&history, &rules, GRACE, at("2025-11-04T01:30:00Z"));
    let kept: Vec<usize> = (0..history.len()).filter(|nth| decisions[*nth].keep).collect();
    // Of the second day only the last half hour is within 24 hours, and it needs its whole chain.
    assert_eq!(kept, (24..72).collect::<Vec<_>>());
    assert_eq!(decisions[24].reason, Reason::LastGood, "the second newest full stays whatever needs it");
    assert!(matches!(decisions[25].reason, Reason::NeededBy(_)), "{:?}", decisions[25].reason);
    let later = decide(&history, &rules, GRACE, at("2025-11-04T02:30:00Z"));
    assert!((25..48).all(|nth| !later[nth].keep), "an hour later nothing needs that chain");
}

#[test]
fn an_increment_whose_chain_is_gone_is_no_good_one() {
    let full = candidate("full", at("2025-11-01T03:00:00Z"), true);
    let whole = Candidate { parent: Some(full.id), ..candidate("increments", at("2025-11-01T04:00:00Z"), true) };
    let broken = Candidate {
        parent: Some(ArtifactId::new(at("2025-11-01T05:00:00Z"))),
        ..candidate("increments", at("2025-11-01T06:00:00Z"), true)
    };
    let mut rules = policies("\"1 day\"");
    rules.insert("increments".to_owned(), rules["full"].clone());
    let decisions = decide(&[full, whole, broken], &rules, GRACE, at("2025-12-01T00:00:00Z"));
    assert!(decisions[1].keep && decisions[1].reason == Reason::LastGood, "the last good one is the one with a chain");
}

#[test]
fn months_are_calendar_months_in_utc() {
    let mut history = series("2025-02-20T00:00:00Z", 1, 1);
    history.push(candidate("full", at("2022-02-01T00:00:00Z"), true));
    history.push(candidate("full", at("2025-01-19T00:00:00Z"), true));
    let rule = policies("\"36 months\"");
    assert_eq!(sentences(&history, &rule, "2025-01-31T23:59:59Z")[1], "keep within 36 months");
    history[0].finished = at("2025-01-20T00:00:00Z");
    assert_eq!(sentences(&history, &rule, "2025-02-01T00:00:00Z")[1], "expire older than 36 months");
}

#[test]
fn counts_are_of_good_ones_only() {
    let mut history = series("2025-11-03T03:00:00Z", 1, 5);
    history[0].verified = false;
    assert_eq!(
        sentences(&history, &policies("{ count = 2 }"), "2025-11-04T00:00:00Z"),
        [
            "keep among the newest 2",
            "keep among the newest 2",
            "keep among the newest 2",
            "expire beyond the newest 2",
            "expire beyond the newest 2"
        ]
    );
}

#[test]
fn a_window_keeps_what_begins_it() {
    let history = series("2025-11-03T03:00:00Z", 7, 4);
    assert_eq!(
        sentences(&history, &policies("{ window = \"10 days\" }"), "2025-11-04T00:00:00Z"),
        [
            "keep within the recovery window of 10 days",
            "keep within the recovery window of 10 days",
            "keep the beginning of the recovery window of 10 days",
            "expire before the recovery window of 10 days",
        ]
    );
}

#[test]
fn the_last_of_each_month_and_year_stays() {
    let history = series("2025-11-03T03:00:00Z", 20, 30);
    let decisions = decide(&history, &policies("{ monthly = 3, yearly = 2 }"), GRACE, at("2025-11-04T00:00:00Z"));
    let kept: Vec<_> = decisions.iter().filter(|d| d.keep).map(|d| d.reason.to_string()).collect();
    let expected = ["2025-11", "2025-10", "2025-09", "2024"].map(|period| format!("the last good one of {period}"));
    assert_eq!(kept, expected);
}

#[test]
fn chains_count_by_their_roots_also_those_of_another_job() {
    let full = series("2025-11-03T03:00:00Z", 7, 3);
    let mut history = full.clone();
    for root in &full {
        let mut child = candidate("increments", root.finished + TimeDelta::hours(1), true);
        child.parent = Some(root.id);
        history.push(child);
    }
    let mut rules = policies("{ chains = 2 }");
    rules.insert("increments".to_owned(), rules["full"].clone());
    let kept: Vec<_> = decide(&history, &rules, GRACE, at("2025-11-30T00:00:00Z")).iter().map(|d| d.keep).collect();
    assert_eq!(kept, [true, true, false, true, true, false]);
}

#[test]
fn what_a_kept_artifact_needs_stays_with_the_reason() {
    let mut history = series("2025-11-03T03:00:00Z", 30, 2);
    history[0].parent = Some(history[1].id);
    let rule = policies("\"10 days\"");
    let expected = format!("keep needed by {}", history[0].id);
    assert_eq!(sentences(&history, &rule, "2025-11-04T00:00:00Z")[1], expected);
}

#[test]
fn a_good_one_with_a_missing_or_unverified_ancestor_is_not_the_last_good_one() {
    let mut history = series("2025-11-03T03:00:00Z", 1, 3);
    history[0].parent = Some(ArtifactId::new(at("2020-01-01T00:00:00Z")));
    history[1].verified = false;
    let rule = policies("\"1 hours\"");
    assert_eq!(
        sentences(&history, &rule, "2025-12-01T00:00:00Z"),
        ["keep the last good one", "expire older than 1 hour", "keep the last good one"],
        "the newest verified one may still be mended, the one before it can be used"
    );
}

#[test]
fn parents_in_a_circle_end_and_count_as_broken() {
    let mut history = series("2025-11-03T03:00:00Z", 1, 3);
    history[0].parent = Some(history[1].id);
    history[1].parent = Some(history[0].id);
    for rule in ["\"1 hours\"", "{ chains = 1 }", "{ count = 1 }"] {
        assert!(sentences(&history, &policies(rule), "2025-12-01T00:00:00Z")[2].starts_with("keep"), "{rule}");
    }
}

#[test]
fn pins_leases_grace_and_the_future_hold() {
    let mut history = series("2025-11-03T03:00:00Z", 100, 6);
    history[2].pinned = true;
    history[3].leased = true;
    history[4].finished = at("2025-11-04T02:30:00Z");
    history[5].finished = at("2031-01-01T00:00:00Z");
    assert_eq!(
        sentences(&history, &policies("\"1 s\""), "2025-11-04T03:00:00Z"),
        [
            "keep the last good one",
            "expire older than 1 second",
            "keep pinned",
            "keep in use by a running restore or backup",
            "keep younger than the grace time",
            "keep finished in the future: the clock has jumped",
        ]
    );
}

#[test]
fn a_clock_that_jumps_back_removes_nothing() {
    let history = series("2025-11-03T03:00:00Z", 1, 60);
    let decisions = decide(&history, &policies("{ count = 1 }"), GRACE, at("2020-01-01T00:00:00Z"));
    assert!(decisions.iter().all(|decision| decision.reason == Reason::FromTheFuture));
}

#[test]
fn an_artifact_from_the_future_takes_no_place() {
    let mut history = series("2025-11-03T03:00:00Z", 1, 3);
    history.push(candidate("full", at("2031-01-01T00:00:00Z"), true));
    let kept: Vec<_> = decide(&history, &policies("{ count = 1 }"), GRACE, at("2025-11-04T00:00:00Z"))
        .iter()
        .map(|d| d.keep)
        .collect();
    assert_eq!(kept, [true, true, false, true]);
}

#[test]
fn the_floor_holds_what_the_rule_would_let_go() {
    let history = series("2025-11-03T03:00:00Z", 365, 5);
    let mut rules = policies("{ count = 1 }");
    rules.get_mut("full").unwrap().floor = Some("36 months".parse().unwrap());
    let told = sentences(&history, &rules, "2025-11-04T00:00:00Z");
    assert_eq!(told[2], "keep held by the retention floor 36 months");
    assert_eq!(told[4], "expire beyond the newest 1");
}

#[test]
fn a_job_without_a_rule_keeps_for_ever() {
    let history = [candidate("gone", at("2001-01-01T00:00:00Z"), true)];
    assert_eq!(
        sentences(&history, &policies("\"1 s\""), "2025-01-01T00:00:00Z"),
        ["keep kept for ever: no rule for its job"]
    );
}

const JOBS: [&str; 3] = ["full", "increment", "audit"];

#[derive(Debug)]
struct World {
    candidates: Vec<Candidate>,
    policies: BTreeMap<String, Policy>,
    now: DateTime<Utc>,
}

fn random_keep(random: &mut StdRng) -> Keep {
    let count = |random: &mut StdRng| NonZeroU32::new(random.random_range(1..5));
    let span = |random: &mut StdRng| Some(Span::days(random.random_range(1..60)));
    let mut keep = Keep::default();
    match random.random_range(0..7) {
        0 => keep.age = Some(Span::months(random.random_range(1..3))),
        1 => keep.age = span(random),
        2 => keep.count = count(random),
        3 => keep.chains = count(random),
        4 => keep.window = span(random),
        5 => keep.monthly = count(random),
        _ => (keep.yearly, keep.count) = (count(random), count(random)),
    }
    keep
}

fn random_world(random: &mut StdRng, now: DateTime<Utc>) -> World {
    let mut candidates: Vec<Candidate> = Vec::new();
    for _ in 0..random.random_range(0..13) {
        let finished = now - TimeDelta::hours(random.random_range(-48..2400));
        let mut next = candidate(JOBS[random.random_range(0..3)], finished, random.random_bool(0.6));
        next.pinned = random.random_bool(0.05);
        next.leased = random.random_bool(0.05);
        if random.random_bool(0.5) && !candidates.is_empty() {
            next.parent = Some(candidates[random.random_range(0..candidates.len())].id);
        }
        if random.random_bool(0.02) {
            next.parent = Some(ArtifactId::new(finished));
        }
        candidates.push(next);
    }
    let policy = |random: &mut StdRng| Policy {
        keep: random.random_bool(0.95).then(|| random_keep(random)),
        floor: random.random_bool(0.1).then(|| Span::days(20)),
        overdue_after: random.random_bool(0.1).then(|| TimeDelta::days(10)),
    };
    let policies = JOBS.iter().map(|job| ((*job).to_owned(), policy(random))).collect();
    World { candidates, policies, now }
}

fn kept(decisions: &[Decision]) -> BTreeSet<ArtifactId> {
    decisions.iter().filter(|decision| decision.keep).map(|decision| decision.id).collect()
}

/// By the words: verified, and so is every ancestor, down to one that builds upon nothing.
fn is_good(candidate: &Candidate, by_id: &BTreeMap<ArtifactId, &Candidate>) -> bool {
    let (mut at, mut steps) = (candidate, 0);
    loop {
        match (at.verified && steps <= by_id.len(), at.parent.map(|parent| by_id.get(&parent))) {
            (true, None) => return true,
            (true, Some(Some(parent))) => at = parent,
            _ => return false,
        }
        steps += 1;
    }
}

/// Everything owed, over one history; how many artifacts it lets go.
fn assert_promises(world: &World, later: DateTime<Utc>) -> usize {
    let World { candidates, policies, now } = world;
    let decisions = decide(candidates, policies, GRACE, *now);
    let stays = kept(&decisions);
    let by_id: BTreeMap<_, _> = candidates.iter().map(|candidate| (candidate.id, candidate)).collect();
    for candidate in candidates {
        let held = candidate.pinned || candidate.leased || candidate.finished > *now - TimeDelta::hours(1);
        assert!(!held || stays.contains(&candidate.id), "{candidate:?} is held");
        let needed = candidate.parent.filter(|parent| by_id.contains_key(parent));
        assert!(!stays.contains(&candidate.id) || needed.is_none_or(|parent| stays.contains(&parent)), "{candidate:?}");
    }
    for job in JOBS {
        let mut good: Vec<_> =
            candidates.iter().filter(|c| c.job == job && c.finished <= *now && is_good(c, &by_id)).collect();
        good.sort_by_key(|c| std::cmp::Reverse((c.finished, c.id)));
        let two = if good.first().is_some_and(|newest| newest.parent.is_none()) { 2 } else { 1 };
        assert!(good.iter().take(two).all(|c| stays.contains(&c.id)), "fewer than {two} good ones of {job} stay");
        let too_old = |limit| good.first().is_some_and(|newest| *now - newest.finished > limit);
        if policies[job].overdue_after.is_some_and(too_old) {
            let goes = candidates.iter().find(|c| c.job == job && !stays.contains(&c.id));
            assert_eq!(goes, None, "{job} makes no good ones any more");
        }
        let past: Vec<_> = candidates.iter().filter(|c| c.job == job && c.finished <= *now).collect();
        let last_verified = past.iter().filter(|c| c.verified).max_by_key(|c| (c.finished, c.id));
        let last = last_verified.or_else(|| past.iter().max_by_key(|c| (c.finished, c.id)));
        assert!(last.is_none_or(|last| stays.contains(&last.id)), "the last of {job} goes");
        let wanted = policies[job].keep.as_ref().and_then(|keep| keep.count).map_or(1, |count| count.get() as usize);
        let good = |c: &&&Candidate| c.verified && c.parent.is_none();
        let good_kept = past.iter().filter(good).filter(|c| stays.contains(&c.id)).count();
        let whole_chains = past.iter().filter(|c| c.verified).all(|c| c.parent.is_none());
        assert!(
            !whole_chains || good_kept >= wanted.min(past.iter().filter(good).count()),
            "too few good ones of {job}"
        );
    }
    assert_eq!(decisions, decide(candidates, policies, GRACE, *now), "the same input gave another output");
    // The guard over jobs that make no good ones any more is what may turn a decision back.
    let guardless = |(job, policy): (&String, &Policy)| (job.clone(), Policy { overdue_after: None, ..policy.clone() });
    let guardless: BTreeMap<String, Policy> = policies.iter().map(guardless).collect();
    let stays_later = kept(&decide(candidates, &guardless, GRACE, later));
    let back: Vec<_> = stays_later.difference(&stays).collect();
    assert!(back.is_empty(), "let go now and kept at {later}: {back:?}");
    let survivors: Vec<_> = candidates.iter().filter(|candidate| stays.contains(&candidate.id)).cloned().collect();
    assert_eq!(kept(&decide(&survivors, policies, GRACE, *now)), stays, "a second expiry removes more");
    candidates.len() - stays.len()
}

fn assert_promises_over(seed: u64, histories: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut let_go = 0;
    let now = at("2025-03-01T00:00:00Z");
    for nth in 0..histories {
        let world = random_world(&mut random, now);
        let later = world.now + TimeDelta::hours(random.random_range(0..2000));
        let run = std::panic::AssertUnwindSafe(|| assert_promises(&world, later));
        let went = std::panic::catch_unwind(run);
        assert!(went.is_ok(), "history {nth} of seed {seed} breaks a promise: {world:#?}");
        let_go += went.unwrap_or_default();
    }
    assert!(let_go > histories / 2, "only {let_go} artifacts were let go in {histories} histories");
}

#[test]
fn g5_no_promise_breaks_over_a_hundred_thousand_random_histories() {
    let halves = [1, 2].map(|seed| std::thread::spawn(move || assert_promises_over(seed, 50_000)));
    halves.into_iter().for_each(|half| half.join().unwrap());
}

#[cfg(feature = "long")]
#[test]
fn g5_no_promise_breaks_over_a_million_random_histories() {
    let parts = (200..216).map(|seed| std::thread::spawn(move || assert_promises_over(seed, 62_500)));
    parts.collect::<Vec<_>>().into_iter().for_each(|part| part.join().unwrap());
}
