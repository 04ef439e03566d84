//! What a job owes at an instant: the one rule behind "no scheduled run is silently lost or doubled".
//!
//! Pure. A job remembers the last scheduled instant it has settled, by a run or by a report that there was none.
//! Every instant after that, up to now, is owed exactly one settlement, however long the agent was away, asleep or
//! under a wrong clock. The surprising thing: instants the clock stepped back behind are already settled, so a job
//! stays quiet until the clock has passed them again, unless the clock was wrong by more than [`BELIEVED_AHEAD`].

use chrono::{DateTime, Datelike, Months, TimeDelta, Utc};

use crate::model::schedule::Schedule;

/// A run that starts within this time of its instant is on time; the agent looks at least once a minute.
pub const ON_TIME: TimeDelta = TimeDelta::minutes(2);

/// A settled instant further ahead of the clock than this was settled under a wrong clock and is not believed.
pub const BELIEVED_AHEAD: TimeDelta = TimeDelta::days(1);

/// What becomes of runs missed while the agent was down, suspended or not the leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatchUp {
    /// One run on return, however many were missed.
    Once,
    /// One run for each calendar month (UTC) with a missed run, oldest first.
    EachMonth,
    /// None: missed runs are only reported.
    Skip,
}

/// The oldest thing a job owes. Once its `scheduled` is settled, the next may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// The instant to settle, with every earlier one.
    pub scheduled: DateTime<Utc>,
    /// Whether it is too late to call the run on time.
    pub late: bool,
    /// Whether it is to be run; otherwise it is only to be reported as missed.
    pub runs: bool,
    /// Instants settled along with it that get no run of their own.
    pub missed: u64,
}

/// What a job that has settled everything up to `handled` owes at `now`.
pub fn due(schedule: &Schedule, catch_up: CatchUp, handled: DateTime<Utc>, now: DateTime<Utc>) -> Option<Due> {
    let first = schedule.next_after(handled).filter(|first| *first <= now)?;
    let until = if catch_up == CatchUp::EachMonth { now.min(month_end(first)) } else { now };
    let (scheduled, missed) = last_and_before(schedule, first, until);
    let late = now - scheduled > ON_TIME;
    let runs = !(late && catch_up == CatchUp::Skip);
    Some(Due { scheduled, late, runs, missed })
}

/// Whether an instant settled as `handled` can have been settled under a right clock, if it is `now`.
pub fn is_believable(handled: DateTime<Utc>, now: DateTime<Utc>) -> bool {
    handled - now <= BELIEVED_AHEAD
}

/// The last instant from `first` up to `until`, and how many there are before it.
fn last_and_before(schedule: &Schedule, first: DateTime<Utc>, until: DateTime<Utc>) -> (DateTime<Utc>, u64) {
    match schedule.next_after(first) {
        Some(second) if second <= until => {
            let last = schedule.latest_at_or_before(until).unwrap_or(second);
            (last, schedule.between(first, last) as u64)
        }
        _ => (first, 0),
    }
}

/// The last instant of the calendar month of `instant`, UTC.
fn month_end(instant: DateTime<Utc>) -> DateTime<Utc> {
    let date = instant.date_naive();
    let next = date.with_day(1).and_then(|first| first.checked_add_months(Months::new(1)));
    match next.and_then(|first| first.and_hms_opt(0, 0, 0)) {
        Some(midnight) => midnight.and_utc() - TimeDelta::nanoseconds(1),
        None => instant,
    }
}

#[cfg(test)]
mod tests {
    use chrono::Timelike;

    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn owed(schedule: &str, catch_up: CatchUp, handled: &str, now: &str) -> Option<Due> {
        due(&schedule.parse().unwrap(), catch_up, at(handled), at(now))
    }

    #[test]
    fn nothing_is_owed_before_the_instant_and_all_of_it_at_the_instant() {
        let before = owed("0 3 * * *", CatchUp::Once, "2026-03-10T03:00:00Z", "2026-03-11T02:59:59Z");
        assert_eq!(before, None);
        let scheduled = at("2026-03-11T03:00:00Z");
        let then = owed("0 3 * * *", CatchUp::Skip, "2026-03-10T03:00:00Z", "2026-03-11T03:00:00Z");
        assert_eq!(then, Some(Due { scheduled, late: false, runs: true, missed: 0 }));
    }

    #[test]
    fn f11_one_run_stands_for_all_that_were_missed() {
        let owed = owed("0 3 * * *", CatchUp::Once, "2026-03-10T03:00:00Z", "2026-03-13T12:00:00Z");
        let scheduled = at("2026-03-13T03:00:00Z");
        assert_eq!(owed, Some(Due { scheduled, late: true, runs: true, missed: 2 }));
    }

    #[test]
    fn a_job_that_does_not_catch_up_runs_on_time_only() {
        let (handled, on_time, late) = ("2026-03-10T00:00:00Z", "2026-03-10T05:02:00Z", "2026-03-10T05:02:01Z");
        let runs = |now| owed("0 * * * *", CatchUp::Skip, handled, now).map(|due| (due.runs, due.missed));
        assert_eq!((runs(on_time), runs(late)), (Some((true, 4)), Some((false, 4))));
    }

    #[test]
    fn f11_months_are_settled_one_by_one_over_the_turn_of_the_year() {
        let (schedule, now) = ("0 1 * * *".parse().unwrap(), at("2028-03-01T00:59:59Z"));
        let mut handled = at("2027-11-30T01:00:00Z");
        let mut settled = Vec::new();
        while let Some(due) = due(&schedule, CatchUp::EachMonth, handled, now) {
            handled = due.scheduled;
            settled.push((due.scheduled.to_rfc3339(), due.missed));
        }
        let months = [("2027-12-31", 30), ("2028-01-31", 30), ("2028-02-29", 28)];
        assert_eq!(settled, months.map(|(day, missed)| (format!("{day}T01:00:00+00:00"), missed)));
    }

    #[test]
    fn a_clock_set_back_owes_nothing_again() {
        assert_eq!(owed("0 * * * *", CatchUp::Once, "2026-03-10T03:00:00Z", "2026-03-10T02:00:00Z"), None);
        assert!(is_believable(at("2026-03-11T02:00:00Z"), at("2026-03-10T02:00:00Z")));
        assert!(!is_believable(at("2026-03-11T02:00:01Z"), at("2026-03-10T02:00:00Z")));
    }

    #[test]
    fn g11_in_every_kind_of_zone_every_day_of_seven_years_is_settled_once() {
        for zone in ["UTC", "Europe/Amsterdam", "America/New_York", "Australia/Lord_Howe", "Asia/Tokyo"] {
            let schedule: Schedule = "30 2 * * *".parse().unwrap();
            let schedule = schedule.in_zone(zone.parse().unwrap());
            let (mut handled, mut now) = (at("2024-01-01T12:00:00Z"), at("2024-01-01T12:00:00Z"));
            let (mut runs, mut days) = (0, 0);
            while now < at("2031-01-01T12:00:00Z") {
                now += TimeDelta::hours(8);
                days += i32::from(now.hour() == 12);
                if let Some(due) = due(&schedule, CatchUp::Once, handled, now) {
                    assert_eq!(due.missed, 0, "{zone} {now}");
                    handled = due.scheduled;
                    runs += 1;
                }
            }
            assert_eq!((runs, days), (2557, 2557), "{zone}");
        }
    }
}
