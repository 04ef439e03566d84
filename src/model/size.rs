//! Sizes in bytes as PostgreSQL reads them: kB, MB, GB and TB are powers of 1024, and so are KiB, MiB, GiB and TiB.
//!
//! Crates that follow SI read "64MB" as 64,000,000; PostgreSQL does not (manual, "Parameter Names and Values").
//! Printed in IEC units; stored as a number of bytes.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("read {text:?} as a size: {reason}")]
pub struct InvalidSize {
    text: String,
    reason: &'static str,
}

impl FromStr for ByteSize {
    type Err = InvalidSize;

    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        parse(text.trim()).map(Self).map_err(|reason| InvalidSize { text: text.chars().take(60).collect(), reason })
    }
}

fn parse(text: &str) -> Result<u64, &'static str> {
    const TOO_LARGE: &str = "it is too large";
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        "tb" | "tib" => 1_u64 << 40,
        _ => return Err("the unit must be one of B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"),
    };
    if let Some((whole, fraction)) = number.split_once('.') {
        return decimal(whole, fraction, factor);
    }
    let count: u64 = number.parse().map_err(|_| "a number such as 64 is expected before the unit")?;
    count.checked_mul(factor).ok_or(TOO_LARGE)
}

/// A number with up to nine digits after the point, rounded down to whole bytes.
fn decimal(whole: &str, fraction: &str, factor: u64) -> Result<u64, &'static str> {
    const MALFORMED: &str = "a number such as 1.5 is expected before the unit";
    let whole: u64 = whole.parse().map_err(|_| MALFORMED)?;
    let digits = u32::try_from(fraction.len()).ok().filter(|digits| (1..=9).contains(digits)).ok_or(MALFORMED)?;
    let fraction: u64 = fraction.parse().map_err(|_| MALFORMED)?;
    let bytes =
        u128::from(fraction) * u128::from(factor) / 10_u128.pow(digits) + u128::from(whole) * u128::from(factor);
    u64::try_from(bytes).map_err(|_| "it is too large")
}

impl fmt::Display for ByteSize {
    /// `16 MiB`, or with one decimal where it is not a whole number of its unit: `1.5 GiB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut unit = 0;
        while unit + 1 < UNITS.len() && self.0 >> (10 * (unit + 1)) > 0 {
            unit += 1;
        }
        let factor = 1_u64 << (10 * unit);
        let text = if self.0.is_multiple_of(factor) {
            format!("{} {}", self.0 / factor, UNITS[unit])
        } else {
            let tenths = u128::from(self.0) * 10 / u128::from(factor);
            format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
        };
        f.pad(&text)
    }
}

struct SizeVisitor;

impl de::Visitor<'_> for SizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a size such as \"64MB\" or a number of bytes")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<ByteSize, E> {
        u64::try_from(bytes).map(ByteSize).map_err(|_| E::custom("use a negative number as a size"))
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<ByteSize, E> {
        Ok(ByteSize(bytes))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SizeVisitor)
    }
}

impl JsonSchema for ByteSize {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteSize".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "examples": ["64MB", 67_108_864] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_postgresql_reads_them() {
        for (text, bytes) in [
            ("64MB", 64 << 20),
            ("64 MiB", 64 << 20),
            ("8kB", 8192),
            ("1.5 GB", 3 << 29),
            ("2TB", 2 << 40),
            ("17", 17),
            ("17 B", 17),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn a_text_that_is_no_size_is_refused() {
        for text in ["", "MB", "-1MB", "1 parsec", "1..5MB", "1.MB", ".5MB", "99999999TB", "18446744073709551616"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn sizes_are_printed_in_iec_units() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (16 << 20, "16 MiB"), (3 << 29, "1.5 GiB"), (1025, "1.0 KiB")]
        {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(ByteSize(u64::MAX).to_string(), "16383.9 PiB");
    }
}
