//! Instants as people write them, read once and without guessing.
//!
//! RFC 3339, PostgreSQL's own form with an offset, a local time with the name of its zone, or a span ago. A time without
//! offset or zone could be several instants and is refused with the candidates, unless a zone was configured; so is a
//! local time that a clock change skips or repeats.

use chrono::{DateTime, LocalResult, NaiveDate, NaiveDateTime, TimeZone as _, Utc};

use crate::model::schedule::Zone;
use crate::model::span::Span;

/// A text that is no single instant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?} as an instant: {reason}")]
pub struct NotAnInstant {
    text: String,
    reason: String,
    /// What could have been meant, to be pasted back.
    pub candidates: Vec<String>,
}

const FORMS: [&str; 4] = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];

/// Reads `text` as of `now`; a local time without a zone is in `zone`, where one is configured.
pub fn parse(text: &str, zone: Option<Zone>, now: DateTime<Utc>) -> Result<DateTime<Utc>, NotAnInstant> {
    let text = text.trim();
    if let Some(span) = text.strip_suffix(" ago") {
        let span: Span = span.parse().map_err(|error| refuse(text, format!("{error}"), Vec::new()))?;
        return Ok(span.before(now));
    }
    if let Ok(instant) = DateTime::parse_from_rfc3339(text) {
        return Ok(instant.with_timezone(&Utc));
    }
    if let Some((local, offset)) = with_offset(text) {
        return match local.and_local_timezone(offset) {
            LocalResult::Single(instant) => Ok(instant.with_timezone(&Utc)),
            _ => Err(refuse(text, "no such time".into(), Vec::new())),
        };
    }
    if let Some((local, name)) = text.rsplit_once(' ')
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && let Some(local) = naive(local)
    {
        let zone: Zone = match name {
            "Z" | "z" => Zone(chrono_tz::UTC),
            name => name.parse().map_err(|error| refuse(text, format!("{error}"), Vec::new()))?,
        };
        return in_zone(text, local, zone);
    }
    let Some(local) = naive(text).or_else(|| naive(text.strip_suffix(['Z', 'z'])?)) else {
        let reason =
            "expected a time such as 2026-03-01T14:30:00Z, \"2026-03-01 14:30 Europe/Amsterdam\", \"2 hours ago\"";
        return Err(refuse(text, reason.into(), Vec::new()));
    };
    match (text.ends_with(['Z', 'z']), zone) {
        (true, _) => Ok(local.and_utc()),
        (false, Some(zone)) => in_zone(text, local, zone),
        (false, None) => {
            let utc = local.format("%Y-%m-%dT%H:%M:%SZ").to_string();
            let named = format!("{} Europe/Amsterdam", local.format("%Y-%m-%d %H:%M:%S"));
            let reason = "it has no offset and no zone, so it could be several instants".to_owned();
            Err(refuse(text, reason, vec![utc, named]))
        }
    }
}

fn refuse(text: &str, reason: String, candidates: Vec<String>) -> NotAnInstant {
    NotAnInstant { text: text.chars().take(100).collect(), reason, candidates }
}

fn naive(text: &str) -> Option<NaiveDateTime> {
    let text = text.trim_end();
    let whole = FORMS.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    whole.or_else(|| NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0))
}

/// A local time with an offset at its end: `+09`, `+0900`, `-03:30`, with or without a space.
fn with_offset(text: &str) -> Option<(NaiveDateTime, chrono::FixedOffset)> {
    let at = text.rfind(['+', '-']).filter(|at| *at > 10)?;
    let (local, offset) = text.split_at(at);
    let (sign, digits) = offset.split_at(1);
    let digits = digits.replace(':', "");
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let (hours, minutes) = match digits.len() {
        1 | 2 if plain => (digits.parse().ok()?, 0),
        4 if plain => (digits[..2].parse::<i32>().ok()?, digits[2..].parse::<i32>().ok().filter(|part| *part < 60)?),
        _ => return None,
    };
    let seconds = (hours * 60 + minutes) * 60 * if sign == "-" { -1 } else { 1 };
    Some((naive(local)?, chrono::FixedOffset::east_opt(seconds)?))
}

fn in_zone(text: &str, local: NaiveDateTime, zone: Zone) -> Result<DateTime<Utc>, NotAnInstant> {
    let show = |instant: DateTime<Utc>| instant.with_timezone(&zone.0).to_rfc3339();
    match zone.0.from_local_datetime(&local) {
        LocalResult::Single(instant) => Ok(instant.with_timezone(&Utc)),
        LocalResult::Ambiguous(first, second) => {
            let both = [first, second].map(|instant| show(instant.with_timezone(&Utc))).to_vec();
            Err(refuse(text, format!("clocks in {} showed it twice", zone.0), both))
        }
        LocalResult::None => {
            let hour = chrono::TimeDelta::hours(1);
            let around = [local - hour, local + hour].into_iter();
            let readings = around.filter_map(|near| zone.0.from_local_datetime(&near).earliest());
            let readings = readings.map(|instant| show(instant.with_timezone(&Utc))).collect();
            Err(refuse(text, format!("clocks in {} skipped it", zone.0), readings))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, NotAnInstant> {
        let now = "2026-03-01T12:00:00Z".parse().unwrap();
        parse(text, None, now).map(|instant| instant.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    }

    #[test]
    fn every_documented_form_is_read() {
        for (text, instant) in [
            ("2025-11-03T14:30:00Z", "2025-11-03T14:30:00Z"),
            ("2025-11-03 14:30:00+09", "2025-11-03T05:30:00Z"),
            ("2025-11-03 14:30:00.25-0330", "2025-11-03T18:00:00.250Z"),
            ("2025-11-03T14:30:00+01:00", "2025-11-03T13:30:00Z"),
            ("2025-11-03 14:30 +05:30", "2025-11-03T09:00:00Z"),
            ("2025-11-03 14:30 Europe/Amsterdam", "2025-11-03T13:30:00Z"),
            ("2025-07-03 14:30 Europe/Amsterdam", "2025-07-03T12:30:00Z"),
            ("2025-11-03 14:30 UTC", "2025-11-03T14:30:00Z"),
            ("2025-11-03 14:30Z", "2025-11-03T14:30:00Z"),
            ("2025-11-03 Asia/Tokyo", "2025-11-02T15:00:00Z"),
            ("2 hours ago", "2026-03-01T10:00:00Z"),
            ("1 day 30 minutes ago", "2026-02-28T11:30:00Z"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(instant), "{text}");
        }
    }

    #[test]
    fn f66_without_offset_or_zone_it_is_refused_with_candidates() {
        let refused = read("2025-11-03 14:30:00").unwrap_err();
        assert_eq!(refused.candidates[0], "2025-11-03T14:30:00Z");
        assert!(refused.to_string().contains("no offset and no zone"));
        let zone = Some("Asia/Tokyo".parse().unwrap());
        let read = parse("2025-11-03 14:30:00", zone, DateTime::UNIX_EPOCH).unwrap();
        assert_eq!(read.to_rfc3339(), "2025-11-03T05:30:00+00:00");
    }

    #[test]
    fn f66_a_local_time_that_does_not_exist_or_exists_twice_is_refused_with_both_readings() {
        let skipped = read("2025-03-30 02:30 Europe/Amsterdam").unwrap_err();
        assert_eq!(skipped.candidates, ["2025-03-30T01:30:00+01:00", "2025-03-30T03:30:00+02:00"]);
        let repeated = read("2025-10-26 02:30 Europe/Amsterdam").unwrap_err();
        assert_eq!(repeated.candidates, ["2025-10-26T02:30:00+02:00", "2025-10-26T02:30:00+01:00"]);
        for candidate in skipped.candidates.iter().chain(&repeated.candidates) {
            assert!(read(candidate).is_ok(), "{candidate} can be pasted back");
        }
    }

    #[test]
    fn rubbish_is_refused() {
        for text in [
            "",
            "yesterday",
            "2025-13-01 00:00Z",
            "2025-11-03 14:30 Europe/Nowhere",
            "ago",
            "14:30Z",
            "2025-11-03 25:00+09",
            "2025-11-03 14:30+0960",
        ] {
            assert!(read(text).is_err(), "{text:?} was taken");
        }
    }
}
