//! From the binary form of a key's field to the text that COPY writes of it.
//!
//! A key is digested as COPY text, the form it has in a dump. To have it printed by the server costs more than all the
//! rest of a reading of keys (uuid_out, timestamp_out and the search for characters to escape), so the types that keys
//! are mostly made of are asked for in binary and printed here. The binary forms are those of the types' send functions,
//! the texts those of their output functions under `datestyle = 'ISO'` (src/backend/utils/adt, `*_send` and `*_out`).

use crate::model::copy_binary::{Malformed, fixed};
use crate::model::copy_text::escape;

/// A type whose text is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyType {
    /// text, varchar: the bytes in the client's encoding.
    Text,
    /// uuid: 16 bytes.
    Uuid,
    /// smallint, integer, bigint: 2, 4 or 8 bytes.
    Integer,
    /// timestamp without time zone: microseconds since 2000-01-01.
    Timestamp,
}

const MICROSECONDS: i64 = 1_000_000;
const SECONDS_A_DAY: i64 = 86_400;
/// Days from 0000-03-01 to 2000-01-01 in the proleptic Gregorian calendar.
const DAYS_TO_2000: i64 = 730_425;
const DAYS_IN_400_YEARS: i64 = 146_097;

impl KeyType {
    /// The type with `oid` (src/include/catalog/pg_type.dat), if it is known here.
    pub fn of(oid: u32) -> Option<Self> {
        Some(match oid {
            25 | 1043 => Self::Text,
            2950 => Self::Uuid,
            20 | 21 | 23 => Self::Integer,
            1114 => Self::Timestamp,
            _ => return None,
        })
    }

    /// Appends what COPY writes of the value `sent`.
    pub fn append(self, sent: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
        match self {
            Self::Text => escape(sent, text),
            Self::Uuid => append_uuid(&fixed(Some(sent))?, text),
            Self::Integer => append_integer(integer(sent)?, 1, text),
            Self::Timestamp => append_timestamp(i64::from_be_bytes(fixed(Some(sent))?), text),
        }
        Ok(())
    }
}

fn integer(sent: &[u8]) -> Result<i64, Malformed> {
    Ok(match sent.len() {
        2 => i16::from_be_bytes(fixed(Some(sent))?).into(),
        4 => i32::from_be_bytes(fixed(Some(sent))?).into(),
        _ => i64::from_be_bytes(fixed(Some(sent))?),
    })
}

fn append_uuid(uuid: &[u8; 16], text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (at, byte) in uuid.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push(b'-');
        }
        text.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// Decimal digits, at least `width` of them.
fn append_integer(value: i64, width: usize, text: &mut Vec<u8>) {
    if value < 0 {
        text.push(b'-');
    }
    let (mut digits, mut at, mut rest) = ([b'0'; 20], 20, value.unsigned_abs());
    while rest > 0 || 20 - at < width {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or_default();
        rest /= 10;
    }
    text.extend_from_slice(&digits[at..]);
}

/// `2025-03-01 12:34:56.789`: a year of at least four digits, no zeros at the end of a fraction (EncodeDateTime in
/// src/backend/utils/adt/datetime.c).
fn append_timestamp(microseconds: i64, text: &mut Vec<u8>) {
    match microseconds {
        i64::MAX => return text.extend_from_slice(b"infinity"),
        i64::MIN => return text.extend_from_slice(b"-infinity"),
        _ => {}
    }
    let (seconds, fraction) = (microseconds.div_euclid(MICROSECONDS), microseconds.rem_euclid(MICROSECONDS));
    let (days, second) = (seconds.div_euclid(SECONDS_A_DAY), seconds.rem_euclid(SECONDS_A_DAY));
    let (year, month, day) = civil(days);
    // There is no year 0: what the calendar counts as 0 is 1 BC.
    append_integer(if year > 0 { year } else { 1 - year }, 4, text);
    let rest = [(b'-', month), (b'-', day), (b' ', second / 3600), (b':', second / 60 % 60), (b':', second % 60)];
    for (separator, value) in rest {
        text.push(separator);
        append_integer(value, 2, text);
    }
    if fraction > 0 {
        text.push(b'.');
        append_integer(fraction, 6, text);
        while text.last() == Some(&b'0') {
            text.pop();
        }
    }
    if year <= 0 {
        text.extend_from_slice(b" BC");
    }
}

/// Year, month and day of a day counted from 2000-01-01 (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms",
/// civil_from_days: years begin in March, so that a leap day is the last).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + DAYS_TO_2000;
    let (era, day_of_era) = (days.div_euclid(DAYS_IN_400_YEARS), days.rem_euclid(DAYS_IN_400_YEARS));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use chrono::{NaiveDate, TimeDelta};
    use proptest::prelude::*;

    use super::*;

    fn text(key: KeyType, sent: &[u8]) -> String {
        let mut text = Vec::new();
        key.append(sent, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    fn time(microseconds: i64) -> String {
        text(KeyType::Timestamp, &microseconds.to_be_bytes())
    }

    #[test]
    fn each_type_is_printed_as_copy_prints_it() {
        assert_eq!(text(KeyType::Text, b"a\tb\\c\n"), "a\\tb\\\\c\\n");
        assert_eq!(text(KeyType::Uuid, &(0..16).collect::<Vec<u8>>()), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(text(KeyType::Integer, &(-7_i16).to_be_bytes()), "-7");
        assert_eq!(text(KeyType::Integer, &0_i32.to_be_bytes()), "0");
        assert_eq!(text(KeyType::Integer, &i64::MIN.to_be_bytes()), "-9223372036854775808");
        assert_eq!(time(0), "2000-01-01 00:00:00");
        assert_eq!(time(-1), "1999-12-31 23:59:59.999999");
        assert_eq!(time(5_097_600_500_000), "2000-02-29 00:00:00.5");
        assert_eq!(time(-63_082_281_600_000_001), "0001-12-31 23:59:59.999999 BC");
        assert_eq!((time(i64::MAX), time(i64::MIN)), ("infinity".to_owned(), "-infinity".to_owned()));
        assert!(KeyType::Uuid.append(&[0; 15], &mut Vec::new()).is_err());
        assert!(KeyType::Integer.append(&[0; 3], &mut Vec::new()).is_err());
        assert_eq!(KeyType::of(1184), None, "timestamptz depends on the session's time zone");
    }

    proptest! {
        #[test]
        fn times_are_those_of_the_calendar(microseconds in -60_000_000_000_000_000_i64..=250_000_000_000_000_000) {
            let then = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap().and_hms_opt(0, 0, 0).unwrap()
                + TimeDelta::microseconds(microseconds);
            let fraction = then.format("%.6f").to_string();
            let fraction = fraction.trim_end_matches('0').trim_end_matches('.').to_owned();
            prop_assert_eq!(time(microseconds), format!("{}{fraction}", then.format("%Y-%m-%d %H:%M:%S")));
        }
    }
}
