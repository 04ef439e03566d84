//! Schedules over changes of local time: every transition of the tz database, no day lost and none doubled.

use chrono::{DateTime, Datelike, NaiveDate, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use dbagent::model::schedule::{Schedule, Zone};

const FIRST_YEAR: i32 = 2024;
const LAST_YEAR: i32 = 2030;

fn schedule(text: &str, zone: Tz) -> Schedule {
    text.parse::<Schedule>().unwrap().in_zone(Zone(zone))
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn due_within(schedule: &Schedule, from: DateTime<Utc>, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
    let next = |after: &DateTime<Utc>| schedule.next_after(*after);
    let begin = from - TimeDelta::seconds(1);
    std::iter::successors(next(&begin), next).take_while(|due| *due < until).collect()
}

/// Days of the years under test on which the zone's offset changes.
fn transition_days(zone: Tz) -> Vec<NaiveDate> {
    let offset = |day: NaiveDate| zone.offset_from_utc_datetime(&day.and_hms_opt(0, 0, 0).unwrap()).fix();
    let first = NaiveDate::from_ymd_opt(FIRST_YEAR, 1, 1).unwrap();
    let days = first.iter_days().take_while(|day| day.year() <= LAST_YEAR);
    days.filter(|day| offset(*day) != offset(day.succ_opt().unwrap())).collect()
}

/// A daily schedule around each transition: as many runs as local days, in order, each at its own local time or, where
/// that was skipped, right after the gap.
fn assert_once_a_day(zone: Tz, hour: u32, minute: u32) -> usize {
    let daily = schedule(&format!("{minute} {hour} * * *"), zone);
    let transitions = transition_days(zone);
    for day in &transitions {
        let local_days: Vec<_> = (*day - TimeDelta::days(3)).iter_days().take(7).collect();
        let noon = |day: &NaiveDate| day.and_hms_opt(12, 0, 0).unwrap().and_utc() - TimeDelta::hours(12);
        let from = noon(&local_days[0]) - TimeDelta::hours(26);
        let until = noon(&local_days[6]) + TimeDelta::hours(50);
        let due = due_within(&daily, from, until);
        for local_day in &local_days {
            let wanted = local_day.and_hms_opt(hour, minute, 0).unwrap();
            let on_time = |due: &&DateTime<Utc>| {
                let late = due.with_timezone(&zone).naive_local() - wanted;
                let skipped = zone.from_local_datetime(&wanted).earliest().is_none();
                late == TimeDelta::zero() || (skipped && late > TimeDelta::zero() && late <= TimeDelta::hours(3))
            };
            let runs = due.iter().filter(on_time).count();
            assert_eq!(runs, 1, "{zone} {local_day} {hour:02}:{minute:02}: {due:?}");
        }
        assert!(due.windows(2).all(|pair| pair[0] < pair[1]), "{zone} {due:?}");
        assert_eq!(daily.between(from, until - TimeDelta::seconds(1)), due.iter().filter(|due| **due > from).count());
    }
    transitions.len()
}

#[test]
fn g11_a_daily_schedule_runs_once_each_local_day_over_transitions_of_sampled_zones() {
    let named =
        ["Europe/Amsterdam", "America/Nuuk", "Africa/Cairo", "Asia/Beirut", "Australia/Lord_Howe", "Africa/Casablanca"];
    let named = named.iter().map(|name| name.parse::<Tz>().unwrap());
    let sampled = TZ_VARIANTS.iter().copied().step_by(40);
    let transitions: usize = named.chain(sampled).map(|zone| assert_once_a_day(zone, 2, 30)).sum();
    assert!(transitions > 80, "only {transitions} transitions were met");
}

#[cfg(feature = "long")]
#[test]
fn g11_a_daily_schedule_runs_once_each_local_day_over_every_transition_of_every_zone() {
    let times = [(0, 0), (0, 30), (1, 30), (2, 0), (2, 30), (3, 0), (23, 30)];
    let zones = TZ_VARIANTS.iter().flat_map(|zone| times.map(|(hour, minute)| (*zone, hour, minute)));
    let transitions: usize = zones.map(|(zone, hour, minute)| assert_once_a_day(zone, hour, minute)).sum();
    assert!(transitions > 10_000, "only {transitions} transitions were met");
}

#[test]
fn a_local_time_that_a_change_skips_runs_once_right_after_the_gap() {
    let daily = schedule("30 2 * * *", Tz::Europe__Amsterdam);
    let due = due_within(&daily, at("2025-03-29T00:00:00Z"), at("2025-04-01T00:00:00Z"));
    assert_eq!(due, [at("2025-03-29T01:30:00Z"), at("2025-03-30T01:00:00Z"), at("2025-03-31T00:30:00Z")]);
    let several = schedule("*/10 2 * * *", Tz::Europe__Amsterdam);
    let due = due_within(&several, at("2025-03-30T00:00:00Z"), at("2025-03-31T00:00:00Z"));
    assert_eq!(due, [at("2025-03-30T01:00:00Z")], "six skipped times are one run");
}

#[test]
fn a_local_time_that_a_change_repeats_runs_once() {
    let daily = schedule("30 2 * * *", Tz::Europe__Amsterdam);
    let due = due_within(&daily, at("2025-10-25T12:00:00Z"), at("2025-10-27T12:00:00Z"));
    assert_eq!(due, [at("2025-10-26T00:30:00Z"), at("2025-10-27T01:30:00Z")]);
    assert_eq!(daily.next_after(at("2025-10-26T00:30:00Z")), Some(at("2025-10-27T01:30:00Z")));
    assert_eq!(daily.latest_at_or_before(at("2025-10-26T01:45:00Z")), Some(at("2025-10-26T00:30:00Z")));
}

#[test]
fn a_schedule_of_every_hour_follows_elapsed_time() {
    for (from, until) in
        [("2025-03-30T00:00:00Z", "2025-03-30T06:00:00Z"), ("2025-10-26T00:00:00Z", "2025-10-26T06:00:00Z")]
    {
        for text in ["0 * * * *", "30 * * * *"] {
            let due = due_within(&schedule(text, Tz::Europe__Amsterdam), at(from), at(until));
            assert_eq!(due.len(), 6, "{text} {due:?}");
            assert!(due.windows(2).all(|pair| pair[1] - pair[0] == TimeDelta::hours(1)));
        }
    }
}

#[test]
fn a_gap_over_midnight_still_runs_every_day() {
    let nightly = schedule("30 23 * * *", Tz::America__Nuuk);
    let due = due_within(&nightly, at("2024-03-29T12:00:00Z"), at("2024-04-02T00:00:00Z"));
    let local: Vec<_> =
        due.iter().map(|due| due.with_timezone(&Tz::America__Nuuk).format("%d %H:%M").to_string()).collect();
    assert_eq!(local, ["29 23:30", "31 00:00", "31 23:30"]);
}

#[test]
fn next_and_latest_agree() {
    for text in ["0 3 * * *", "*/10 * * * *", "0 4 * * 0", "0 6 1 * *", "30 2 29 2 *", "15 1-5 13 * FRI"] {
        for zone in [Tz::UTC, Tz::Europe__Amsterdam, Tz::Australia__Lord_Howe] {
            let schedule = schedule(text, zone);
            let mut instant = at("2025-03-28T00:00:00Z");
            for _ in 0..40 {
                let next = schedule.next_after(instant).unwrap();
                assert!(next > instant);
                assert_eq!(schedule.latest_at_or_before(next), Some(next), "{text} {zone}");
                assert_eq!(schedule.next_after(next - TimeDelta::seconds(1)), Some(next), "{text} {zone}");
                assert_eq!(schedule.between(instant, next), 1, "{text} {zone}");
                instant = next;
            }
        }
    }
}
