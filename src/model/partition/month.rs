//! Calendar months in UTC.

use std::fmt;

use chrono::{DateTime, Datelike as _, NaiveDate, Utc};
use serde::Serialize;

/// A calendar month, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month {
    /// Months since year 0.
    number: i32,
}

impl Month {
    /// The month that `instant` lies in.
    pub fn of(instant: DateTime<Utc>) -> Self {
        Self::of_day(instant.date_naive())
    }

    /// The month that `day` lies in.
    pub fn of_day(day: NaiveDate) -> Self {
        Self { number: day.year() * 12 + day.month0().cast_signed() }
    }

    /// The month `count` months later.
    pub fn plus(self, count: u32) -> Self {
        Self { number: self.number.saturating_add(count.try_into().unwrap_or(i32::MAX)) }
    }

    /// Its first day.
    pub fn first_day(self) -> NaiveDate {
        let month = u32::try_from(self.number.rem_euclid(12)).unwrap_or_default() + 1;
        NaiveDate::from_ymd_opt(self.number.div_euclid(12), month, 1).unwrap_or(NaiveDate::MAX)
    }

    /// The first day of the next month.
    pub fn end_day(self) -> NaiveDate {
        self.plus(1).first_day()
    }

    /// Its first instant.
    pub fn lower(self) -> DateTime<Utc> {
        midnight(self.first_day())
    }

    /// The first instant after it.
    pub fn upper(self) -> DateTime<Utc> {
        midnight(self.end_day())
    }
}

impl fmt::Display for Month {
    /// `2026-03`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.first_day().format("%Y-%m"))
    }
}

impl Serialize for Month {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The first instant of `day`, in UTC.
pub(super) fn midnight(day: NaiveDate) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_follow_each_other_over_years_and_leap_days() {
        let of = |text: &str| Month::of(text.parse().unwrap());
        assert_eq!(of("2024-02-29T23:59:59Z").upper(), "2024-03-01T00:00:00Z".parse::<DateTime<Utc>>().unwrap());
        assert_eq!(of("2025-12-31T23:59:59Z").plus(1), of("2026-01-01T00:00:00Z"));
        assert_eq!(of("2026-01-31T12:00:00Z").plus(13).to_string(), "2027-02");
        assert_eq!(of("2026-03-01T00:00:00+01:00"), of("2026-02-28T00:00:00Z"));
    }
}
