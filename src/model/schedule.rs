//! When a job is due: five cron fields, POSIX weekdays, UTC or a named time zone.
//!
//! A matcher of our own, because the cron crates want a seconds field, count weekdays otherwise, join day of month and
//! day of week with AND, and skip or double runs over a DST change. Here a local time that a change skips runs once, at
//! the first instant after the gap; one that it repeats runs once, the first time (crontab(5) of Vixie cron). Only a
//! schedule that names every hour follows elapsed time and runs in both halves of a repeated hour.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::{DateTime, Datelike, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Days looked at before giving up: 29 February on one weekday comes again within 40 years, over 2100 too.
const HORIZON_DAYS: usize = 41 * 366;
const EVERY_HOUR: u64 = (1 << 24) - 1;
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// A time zone of the IANA database by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(pub Tz);

/// A text that names no time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("find the time zone {name:?}: expected a name such as {nearest:?}")]
pub struct UnknownZone {
    name: String,
    nearest: &'static str,
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let closeness = |zone: &Tz| (strsim::jaro_winkler(zone.name(), text) * 1e6) as u64;
        let nearest =
            || chrono_tz::TZ_VARIANTS.iter().max_by_key(|zone| closeness(zone)).map_or("UTC", |zone| zone.name());
        text.parse().map(Self).map_err(|_| UnknownZone { name: text.chars().take(60).collect(), nearest: nearest() })
    }
}

impl TryFrom<String> for Zone {
    type Error = UnknownZone;

    fn try_from(text: String) -> Result<Self, UnknownZone> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0.name().to_owned()
    }
}

impl JsonSchema for Zone {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Zone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["UTC", "Europe/Amsterdam"] })
    }
}

/// A cron expression that can fire, in a time zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    text: String,
    zone: Tz,
    minutes: Field,
    hours: Field,
    days: Field,
    months: Field,
    weekdays: Field,
}

/// The values one field names, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    bits: u64,
    /// Whether it begins with `*`: then it does not take part in the day-of-month *or* day-of-week rule.
    star: bool,
}

impl Field {
    fn has(self, value: u32) -> bool {
        self.bits >> value & 1 == 1
    }

    fn values(self) -> impl Iterator<Item = u32> {
        (0..64).filter(move |value| self.has(*value))
    }
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?} as a schedule: {reason}")]
pub struct InvalidSchedule {
    text: String,
    reason: String,
}

impl FromStr for Schedule {
    type Err = InvalidSchedule;

    /// Reads the expression in UTC.
    fn from_str(text: &str) -> Result<Self, InvalidSchedule> {
        parse(text).map_err(|reason| InvalidSchedule { text: text.chars().take(80).collect(), reason })
    }
}

impl Schedule {
    /// The same expression on the local time of `zone`.
    pub fn in_zone(mut self, zone: Zone) -> Self {
        self.zone = zone.0;
        self
    }

    /// The zone whose local time it follows.
    pub fn zone(&self) -> Zone {
        Zone(self.zone)
    }

    /// The first time due after `instant`; absent only at the end of the calendar.
    pub fn next_after(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self.local_day(instant).pred_opt()?;
        self.nearest(from.iter_days(), |due| *due > instant).into_iter().min()
    }

    /// The last time due at or before `instant`; absent only at the beginning of the calendar.
    pub fn latest_at_or_before(&self, instant: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let from = self.local_day(instant).succ_opt()?;
        self.nearest(from.iter_days().rev(), |due| *due <= instant).into_iter().max()
    }

    /// How often it is due after `after` and at or before `until`.
    pub fn between(&self, after: DateTime<Utc>, until: DateTime<Utc>) -> usize {
        let (first, last) = (self.local_day(after).pred_opt(), self.local_day(until).succ_opt());
        let (Some(first), Some(last)) = (first, last) else { return 0 };
        let days = first.iter_days().take_while(|day| *day <= last);
        let due: BTreeSet<_> = days.flat_map(|day| self.due_on(day)).collect();
        due.into_iter().filter(|due| after < *due && *due <= until).count()
    }

    /// What is due on the first of `days` that has something wanted, and on the day beyond it: a change over midnight
    /// can put the times of two days in either order.
    fn nearest(
        &self,
        mut days: impl Iterator<Item = NaiveDate>,
        wanted: impl Fn(&DateTime<Utc>) -> bool,
    ) -> Vec<DateTime<Utc>> {
        for day in days.by_ref().take(HORIZON_DAYS) {
            let mut found: Vec<_> = self.due_on(day).into_iter().filter(&wanted).collect();
            if !found.is_empty() {
                found.extend(days.next().into_iter().flat_map(|day| self.due_on(day)).filter(&wanted));
                return found;
            }
        }
        Vec::new()
    }

    /// The instants of one local day, unsorted, perhaps repeated.
    fn due_on(&self, day: NaiveDate) -> Vec<DateTime<Utc>> {
        if !self.matches_day(day) {
            return Vec::new();
        }
        let times = self.hours.values().flat_map(|hour| self.minutes.values().map(move |minute| (hour, minute)));
        let times = times.filter_map(|(hour, minute)| NaiveTime::from_hms_opt(hour, minute, 0));
        times.flat_map(|time| self.instants(day.and_time(time))).collect()
    }

    fn matches_day(&self, day: NaiveDate) -> bool {
        let of_month = self.days.has(day.day());
        let of_week = self.weekdays.has(day.weekday().num_days_from_sunday());
        let either = !self.days.star && !self.weekdays.star;
        self.months.has(day.month()) && if either { of_month || of_week } else { of_month && of_week }
    }

    /// The instants that stand for one local time.
    fn instants(&self, local: NaiveDateTime) -> Vec<DateTime<Utc>> {
        let elapsed = self.hours.bits == EVERY_HOUR;
        match self.zone.from_local_datetime(&local) {
            LocalResult::Single(only) => vec![only.to_utc()],
            LocalResult::Ambiguous(first, second) if elapsed => vec![first.to_utc(), second.to_utc()],
            LocalResult::Ambiguous(first, _) => vec![first.to_utc()],
            LocalResult::None if elapsed => Vec::new(),
            LocalResult::None => self.end_of_gap(local).into_iter().collect(),
        }
    }

    /// The first instant whose local time is past `local`, which a change skips.
    fn end_of_gap(&self, local: NaiveDateTime) -> Option<DateTime<Utc>> {
        let day = TimeDelta::hours(27);
        let mut before = local.and_utc().checked_sub_signed(day)?.timestamp();
        let mut after = local.and_utc().checked_add_signed(day)?.timestamp();
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            let reached = self.zone.timestamp_opt(middle, 0).single()?.naive_local() >= local;
            *(if reached { &mut after } else { &mut before }) = middle;
        }
        DateTime::from_timestamp(after, 0)
    }

    fn local_day(&self, instant: DateTime<Utc>) -> NaiveDate {
        let margin = TimeDelta::days(3);
        let instant = instant.clamp(DateTime::<Utc>::MIN_UTC + margin, DateTime::<Utc>::MAX_UTC - margin);
        instant.with_timezone(&self.zone).date_naive()
    }
}

fn parse(text: &str) -> Result<Schedule, String> {
    let expanded = match text.trim() {
        name if name.starts_with('@') => named(name)?,
        fields => fields,
    };
    let parts: Vec<&str> = expanded.split_whitespace().collect();
    let [minutes, hours, days, months, weekdays] = parts[..] else {
        return Err(format!(
            "it has {} fields instead of five: minute, hour, day of month, month, day of week",
            parts.len()
        ));
    };
    let schedule = Schedule {
        text: text.trim().to_owned(),
        zone: Tz::UTC,
        minutes: field(minutes, "minute", 0..=59, &[])?,
        hours: field(hours, "hour", 0..=23, &[])?,
        days: field(days, "day of month", 1..=31, &[])?,
        months: field(months, "month", 1..=12, &MONTHS)?,
        weekdays: weekdays_field(weekdays)?,
    };
    if can_fire(&schedule) {
        Ok(schedule)
    } else {
        Err("none of its months has such a day; it can never fire".to_owned())
    }
}

fn named(name: &str) -> Result<&'static str, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => return Err("expected one of @hourly, @daily, @weekly, @monthly, @yearly".to_owned()),
    })
}

/// Whether any month it names has a day it names. Days of the week always come.
fn can_fire(schedule: &Schedule) -> bool {
    let longest = |month| match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    let either = !schedule.days.star && !schedule.weekdays.star;
    let first_day = schedule.days.bits.trailing_zeros();
    either || schedule.months.values().any(|month| first_day <= longest(month))
}

/// Days of the week, where 7 is Sunday too.
fn weekdays_field(text: &str) -> Result<Field, String> {
    let field = field(text, "day of week", 0..=7, &WEEKDAYS)?;
    let sunday = field.bits >> 7 & 1;
    Ok(Field { bits: (field.bits | sunday) & 0x7f, ..field })
}

fn field(text: &str, name: &str, range: RangeInclusive<u32>, names: &[&str]) -> Result<Field, String> {
    let mut bits = 0;
    for item in text.split(',') {
        bits |= item_bits(item, &range, names).map_err(|reason| format!("{name} {item:?} {reason}"))?;
    }
    Ok(Field { bits, star: text.starts_with('*') })
}

/// One item of a list: `*`, `5`, `1-5`, each of the ranges with `/step`.
fn item_bits(item: &str, range: &RangeInclusive<u32>, names: &[&str]) -> Result<u64, String> {
    let (span, step) = match item.split_once('/') {
        Some((span, step)) => (span, Some(step)),
        None => (item, None),
    };
    let (first, last) = match span.split_once('-') {
        Some((first, last)) => (value(first, range, names)?, last_value(last, range, names)?),
        None if span == "*" => (*range.start(), *range.end()),
        None if step.is_some() => return Err("needs a range before its step, such as */15 or 5-59/15".to_owned()),
        None => value(span, range, names).map(|only| (only, only))?,
    };
    if first > last {
        return Err("runs backwards; write two ranges".to_owned());
    }
    let step = match step.map(str::parse::<usize>) {
        None => 1,
        Some(Ok(step)) if step > 0 => step,
        Some(_) => return Err("has a step that is no number above 0".to_owned()),
    };
    Ok((first..=last).step_by(step).fold(0, |bits, value| bits | 1 << value))
}

/// The end of a range, where Sunday comes after Saturday.
fn last_value(text: &str, range: &RangeInclusive<u32>, names: &[&str]) -> Result<u32, String> {
    let last = value(text, range, names)?;
    Ok(if names == WEEKDAYS && last == 0 { 7 } else { last })
}

fn value(text: &str, range: &RangeInclusive<u32>, names: &[&str]) -> Result<u32, String> {
    let by_name = names.iter().position(|name| name.eq_ignore_ascii_case(text));
    let by_name = by_name.and_then(|at| u32::try_from(at).ok()).map(|at| at + *range.start());
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let by_number = if digits { text.parse().ok() } else { None };
    by_name.or(by_number).filter(|value| range.contains(value)).ok_or_else(|| {
        let or_names = if names.is_empty() { "" } else { " or a name of three letters" };
        format!("is not within {} to {}{or_names}", range.start(), range.end())
    })
}

impl fmt::Display for Schedule {
    /// The expression as it was written, without the zone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl TryFrom<String> for Schedule {
    type Error = InvalidSchedule;

    fn try_from(text: String) -> Result<Self, InvalidSchedule> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.text
    }
}

impl JsonSchema for Schedule {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Schedule".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["0 3 * * *", "*/10 * * * *", "0 4 * * SUN", "@daily"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> Schedule {
        text.parse().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn next(text: &str, after: &str) -> String {
        schedule(text).next_after(at(after)).unwrap().format("%Y-%m-%d %H:%M %a").to_string()
    }

    #[test]
    fn the_next_time_is_strictly_after() {
        assert_eq!(next("0 3 * * *", "2025-11-03T02:59:59Z"), "2025-11-03 03:00 Mon");
        assert_eq!(next("0 3 * * *", "2025-11-03T03:00:00Z"), "2025-11-04 03:00 Tue");
        assert_eq!(next("*/10 * * * *", "2025-12-31T23:50:00Z"), "2026-01-01 00:00 Thu");
        assert_eq!(next("0 6 1 * *", "2025-11-03T00:00:00Z"), "2025-12-01 06:00 Mon");
        assert_eq!(next("@yearly", "2025-11-03T00:00:00Z"), "2026-01-01 00:00 Thu");
        assert_eq!(next("0 0 29 2 *", "2097-01-01T00:00:00Z"), "2104-02-29 00:00 Fri");
    }

    #[test]
    fn weekdays_are_those_of_posix() {
        for sunday in ["0 4 * * 0", "0 4 * * 7", "0 4 * * SUN", "0 4 * * sun", "0 4 * * 7-7"] {
            assert_eq!(next(sunday, "2025-11-03T00:00:00Z"), "2025-11-09 04:00 Sun", "{sunday}");
        }
        assert_eq!(next("0 7 * * MON", "2025-11-03T08:00:00Z"), "2025-11-10 07:00 Mon");
        assert_eq!(next("0 7 * * FRI-SUN", "2025-11-08T08:00:00Z"), "2025-11-09 07:00 Sun");
        assert_eq!(next("0 2 * * 0-5", "2025-11-07T02:00:00Z"), "2025-11-09 02:00 Sun");
    }

    #[test]
    fn day_of_month_or_day_of_week_when_both_are_restricted() {
        assert_eq!(next("0 0 13 * 5", "2025-11-03T00:00:00Z"), "2025-11-07 00:00 Fri");
        assert_eq!(next("0 0 13 * 5", "2025-11-07T00:00:00Z"), "2025-11-13 00:00 Thu");
        assert_eq!(next("0 0 */2 * 5", "2025-11-03T00:00:00Z"), "2025-11-07 00:00 Fri");
        assert_eq!(next("0 0 */2 * 5", "2025-11-07T00:00:00Z"), "2025-11-21 00:00 Fri");
    }

    #[test]
    fn an_expression_that_can_never_fire_is_refused() {
        for text in ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 31 FEB */2"] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains("never fire"), "{error}");
        }
        assert!("0 0 30 2 1".parse::<Schedule>().is_ok(), "Mondays in February come");
        assert!("0 0 29 2 */7".parse::<Schedule>().is_ok(), "a leap day on a Sunday comes");
        let leap_sunday = format!("{} 00:00 Sun", leap_sunday_after(2076));
        assert_eq!(next("0 0 29 2 */7", "2076-03-01T00:00:00Z"), leap_sunday);
    }

    /// The first leap day on a Sunday after `year`, found without the code under test.
    fn leap_sunday_after(year: i32) -> NaiveDate {
        let mut days = (year + 1..).filter_map(|year| NaiveDate::from_ymd_opt(year, 2, 29));
        days.find(|day| day.weekday() == chrono::Weekday::Sun).unwrap()
    }

    #[test]
    fn malformed_expressions_are_refused_with_the_reason() {
        for (text, reason) in [
            ("", "0 fields"),
            ("0 3 * *", "4 fields"),
            ("0 0 3 * * *", "6 fields"),
            ("60 3 * * *", "minute \"60\" is not within 0 to 59"),
            ("0 24 * * *", "hour \"24\""),
            ("0 3 0 * *", "day of month \"0\""),
            ("0 3 * 13 *", "month \"13\""),
            ("0 3 * * 8", "day of week \"8\""),
            ("0 3 * * MONDAY", "day of week \"MONDAY\""),
            ("5/15 * * * *", "needs a range before its step"),
            ("*/0 * * * *", "no number above 0"),
            ("0 22-2 * * *", "runs backwards"),
            ("0 3 L * *", "day of month \"L\""),
            ("+1 3 * * *", "minute \"+1\""),
            ("0, 3 * * *", "minute \"\""),
            ("@reboot", "expected one of"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn the_latest_time_is_at_or_before() {
        let daily = schedule("0 3 * * *");
        assert_eq!(daily.latest_at_or_before(at("2025-11-03T03:00:00Z")), Some(at("2025-11-03T03:00:00Z")));
        assert_eq!(daily.latest_at_or_before(at("2025-11-03T02:59:00Z")), Some(at("2025-11-02T03:00:00Z")));
        assert_eq!(
            schedule("0 0 29 2 *").latest_at_or_before(at("2027-01-01T00:00:00Z")),
            Some(at("2024-02-29T00:00:00Z"))
        );
    }

    #[test]
    fn times_between_are_counted_without_the_first_instant_and_with_the_last() {
        let hourly = schedule("@hourly");
        assert_eq!(hourly.between(at("2025-11-03T03:00:00Z"), at("2025-11-03T05:00:00Z")), 2);
        assert_eq!(hourly.between(at("2025-11-03T05:00:00Z"), at("2025-11-03T03:00:00Z")), 0);
        assert_eq!(schedule("* * * * *").between(at("2025-11-01T00:00:00Z"), at("2025-11-04T00:00:00Z")), 3 * 1440);
    }

    #[test]
    fn the_ends_of_the_calendar_are_no_panic() {
        let daily = schedule("0 3 * * *");
        daily.next_after(DateTime::<Utc>::MAX_UTC);
        daily.latest_at_or_before(DateTime::<Utc>::MIN_UTC);
        assert_eq!(daily.between(DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC), 0);
    }

    #[test]
    fn an_unknown_zone_is_refused_with_the_nearest_name() {
        let error = "Europe/Amsterdm".parse::<Zone>().unwrap_err().to_string();
        assert!(error.contains("Europe/Amsterdam"), "{error}");
    }
}
