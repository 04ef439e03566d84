//! Lengths of time as an operator writes them: "30 days", "36 months", "3 hours", "1 year 6 months", "5s".
//!
//! Months, days and shorter units are kept apart, because a month has no length until it is laid on a calendar. Months
//! and days count in UTC. Adding months clamps to the month's end (31 January and 1 month: 28 or 29 February).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, Days, Months, NaiveDate, TimeDelta, Utc};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// Longest span taken, roughly: a slip of the hand, not a policy, lies beyond.
const LONGEST_DAYS: u64 = 366 * 1000;

/// A length of time, never negative; zero is a value, and who cannot use it refuses it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    months: u32,
    days: u32,
    milliseconds: u64,
}

impl Span {
    /// A span of calendar months.
    pub fn months(months: u32) -> Self {
        Self { months, ..Self::default() }
    }

    /// A span of days.
    pub fn days(days: u32) -> Self {
        Self { days, ..Self::default() }
    }

    /// A span of seconds.
    pub fn seconds(seconds: u64) -> Self {
        Self { milliseconds: seconds.saturating_mul(SECOND), ..Self::default() }
    }

    /// Whether it has no length at all.
    pub fn is_zero(&self) -> bool {
        *self == Self::default()
    }

    /// The instant this long before `instant`, by the calendar in UTC; the earliest there is when it would lie before.
    pub fn before(&self, instant: DateTime<Utc>) -> DateTime<Utc> {
        instant
            .checked_sub_months(Months::new(self.months))
            .and_then(|moved| moved.checked_sub_days(Days::new(self.days.into())))
            .and_then(|moved| moved.checked_sub_signed(self.short_part()))
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
    }

    /// The instant this long after `instant`, by the calendar in UTC; the last there is when it would lie after.
    pub fn after(&self, instant: DateTime<Utc>) -> DateTime<Utc> {
        instant
            .checked_add_months(Months::new(self.months))
            .and_then(|moved| moved.checked_add_days(Days::new(self.days.into())))
            .and_then(|moved| moved.checked_add_signed(self.short_part()))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The span as a fixed length, a month counted as 30 days: for timeouts and waits, where nobody means a calendar.
    pub fn to_duration(&self) -> Duration {
        let days = u64::from(self.months).saturating_mul(30).saturating_add(self.days.into());
        Duration::from_millis(days.saturating_mul(DAY).saturating_add(self.milliseconds))
    }

    /// Whether it ends sooner than `other` from any day of a leap cycle: 1095 days are shorter than 36 months,
    /// because 36 months may have a leap day.
    pub fn may_be_shorter_than(&self, other: &Self) -> bool {
        if self == other {
            return false;
        }
        let first = NaiveDate::from_ymd_opt(2024, 1, 1).unwrap_or_default();
        let starts = first.iter_days().take(4 * 365 + 1).filter_map(|day| day.and_hms_opt(0, 0, 0));
        starts.map(|start| start.and_utc()).any(|start| self.after(start) < other.after(start))
    }

    fn short_part(&self) -> TimeDelta {
        i64::try_from(self.milliseconds).ok().and_then(TimeDelta::try_milliseconds).unwrap_or(TimeDelta::MAX)
    }

    /// Adds `count` of `unit`, or says why not.
    fn add(&mut self, count: u64, unit: &str) -> Result<(), String> {
        let (months, days, milliseconds) = unit_of(unit)?;
        let too_long = || "it is longer than 1000 years".to_owned();
        let more = |value: u64| count.checked_mul(value).ok_or_else(too_long);
        let months = u64::from(self.months) + more(months)?.min(u32::MAX.into());
        let days = u64::from(self.days) + more(days)?.min(u32::MAX.into());
        let milliseconds = self.milliseconds.checked_add(more(milliseconds)?).ok_or_else(too_long)?;
        if months.saturating_mul(31).saturating_add(days).saturating_add(milliseconds / DAY) > LONGEST_DAYS {
            return Err(too_long());
        }
        self.months = u32::try_from(months).map_err(|_| too_long())?;
        self.days = u32::try_from(days).map_err(|_| too_long())?;
        self.milliseconds = milliseconds;
        Ok(())
    }
}

/// Months, days and milliseconds of one `unit`.
fn unit_of(unit: &str) -> Result<(u64, u64, u64), String> {
    Ok(match unit.to_ascii_lowercase().as_str() {
        "year" | "years" | "y" => (12, 0, 0),
        "month" | "months" | "mon" => (1, 0, 0),
        "week" | "weeks" | "w" => (0, 7, 0),
        "day" | "days" | "d" => (0, 1, 0),
        "hour" | "hours" | "h" => (0, 0, HOUR),
        "minute" | "minutes" | "min" => (0, 0, MINUTE),
        "second" | "seconds" | "sec" | "s" => (0, 0, SECOND),
        "millisecond" | "milliseconds" | "ms" => (0, 0, 1),
        "" => return Err("a number has no unit; write \"30 days\", \"3 hours\" or \"90 seconds\"".to_owned()),
        "m" => return Err("\"m\" could be minutes or months; write \"min\" or \"months\"".to_owned()),
        other => return Err(format!("{other:?} is no unit of time")),
    })
}

/// Why a text is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?} as a length of time: {reason}")]
pub struct InvalidSpan {
    text: String,
    reason: String,
}

impl FromStr for Span {
    type Err = InvalidSpan;

    fn from_str(text: &str) -> Result<Self, InvalidSpan> {
        parse(text).map_err(|reason| InvalidSpan { text: text.chars().take(60).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Span, String> {
    let separator = |c: char| c.is_whitespace() || c == ',';
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err("it is empty".to_owned());
    }
    let mut span = Span::default();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let count = number.parse().map_err(|_| "a whole number is expected before each unit".to_owned())?;
        let tail = tail.trim_start();
        let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        span.add(count, unit)?;
        rest = tail.trim_start_matches(separator);
    }
    Ok(span)
}

impl fmt::Display for Span {
    /// Parses back to the same span.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (count, unit) = in_largest_unit(self.milliseconds);
        let parts = [(u64::from(self.months), "month"), (u64::from(self.days), "day"), (count, unit)];
        let mut written = false;
        for (count, unit) in parts.into_iter().filter(|(count, _)| *count > 0) {
            let gap = if written { " " } else { "" };
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{gap}{count} {unit}{plural}")?;
            written = true;
        }
        if written { Ok(()) } else { f.write_str("0 seconds") }
    }
}

/// The largest unit that divides `milliseconds` without a rest.
fn in_largest_unit(milliseconds: u64) -> (u64, &'static str) {
    match milliseconds {
        all if all % HOUR == 0 => (all / HOUR, "hour"),
        all if all % MINUTE == 0 => (all / MINUTE, "minute"),
        all if all % SECOND == 0 => (all / SECOND, "second"),
        all => (all, "millisecond"),
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct SpanVisitor;

impl de::Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time such as \"30 days\" or \"90 seconds\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(SpanVisitor)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Span".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["30 days", "36 months", "3 hours", "5s"] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(text: &str) -> Span {
        text.parse().unwrap()
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn spans_are_read_as_people_write_them() {
        assert_eq!(span("30 days"), Span::days(30));
        assert_eq!(span("36 months"), Span::months(36));
        assert_eq!(span("3 years"), Span::months(36));
        assert_eq!(span("1 week"), Span::days(7));
        assert_eq!(span("3 hours"), Span::seconds(10_800));
        assert_eq!(span("90 seconds"), Span::seconds(90));
        assert_eq!(span("1h30min"), Span::seconds(5_400));
        assert_eq!(span("5s").to_duration(), Duration::from_secs(5));
        assert_eq!(span("250ms").to_duration(), Duration::from_millis(250));
        assert_eq!(span(" 1 Year, 6 months  2 DAYS "), Span { months: 18, days: 2, milliseconds: 0 });
    }

    #[test]
    fn a_text_that_is_no_span_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("30", "a number has no unit"),
            ("days", "a whole number is expected"),
            ("-3 days", "a whole number is expected"),
            ("1.5 days", "a number has no unit"),
            ("3 parsecs", "\"parsecs\" is no unit"),
            ("5m", "minutes or months"),
            ("99999999999999999999 s", "a whole number is expected"),
            ("18446744073709551615 years", "longer than 1000 years"),
            ("18446744073709551615 ms", "longer than 1000 years"),
            ("4294967296 months", "longer than 1000 years"),
            ("30 days ago", "a whole number is expected"),
        ] {
            let error = text.parse::<Span>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    #[test]
    fn months_are_calendar_months_and_clamp_to_the_months_end() {
        let month = Span::months(1);
        assert_eq!(month.before(at("2025-03-31T12:00:00Z")), at("2025-02-28T12:00:00Z"));
        assert_eq!(month.before(at("2024-03-31T12:00:00Z")), at("2024-02-29T12:00:00Z"));
        assert_eq!(month.after(at("2025-01-31T12:00:00Z")), at("2025-02-28T12:00:00Z"));
        assert_eq!(span("1 year").after(at("2024-02-29T00:00:00Z")), at("2025-02-28T00:00:00Z"));
        assert_eq!(span("36 months").after(at("2022-02-01T00:00:00Z")), at("2025-02-01T00:00:00Z"));
        assert_eq!(span("1 month 1 day").after(at("2025-01-31T00:00:00Z")), at("2025-03-01T00:00:00Z"));
    }

    #[test]
    fn an_instant_beyond_the_calendar_is_its_end() {
        assert_eq!(span("900 years").after(DateTime::<Utc>::MAX_UTC), DateTime::<Utc>::MAX_UTC);
        assert_eq!(span("900 years").before(DateTime::<Utc>::MIN_UTC), DateTime::<Utc>::MIN_UTC);
    }

    #[test]
    fn a_printed_span_parses_back() {
        for text in
            ["30 days", "36 months", "90 seconds", "90 minutes", "24 hours", "1 month 1 day 1 hour", "0 seconds"]
        {
            assert_eq!(span(text).to_string(), text);
        }
        assert_eq!(span("3 years").to_string(), "36 months");
        assert_eq!(span(&span("1500ms").to_string()), span("1500ms"));
    }

    #[test]
    fn spans_compare_by_the_calendar() {
        assert!(!span("3 years").may_be_shorter_than(&span("36 months")));
        assert!(span("1095 days").may_be_shorter_than(&span("36 months")));
        assert!(!span("1096 days").may_be_shorter_than(&span("36 months")));
        assert!(span("30 days").may_be_shorter_than(&span("1 month")));
    }
}
