//! How a column of the log is said as text in an earlier application's formula: a closed set, by the column's type.

use crate::model::audit::profile::Fault;
use crate::model::audit::row::instant;
use crate::model::copy_binary::Malformed;

const MICROS: i64 = 1_000_000;

/// The columns that can be hashed, in the order of the log's COPY, with what each can be said as; the first is meant where
/// nothing is written.
const COLUMNS: [(&str, &[Encoding]); 14] = {
    use Encoding::{
        Compact, Digit, EpochMicros, EpochMillis, EpochSeconds, Hex, IsoMicros, IsoMillis, IsoSeconds, Letter,
    };
    use Encoding::{Json, Text, Time, TrueFalse, Uuid};
    let (text, uuid): (&[Encoding], &[Encoding]) = (&[Text], &[Uuid, Hex]);
    [
        ("id", uuid),
        ("user_id", uuid),
        ("session_id", uuid),
        ("action", text),
        ("resource", text),
        ("resource_id", text),
        ("details", &[Json, Compact]),
        ("ip_address", text),
        ("user_agent", text),
        ("success", &[TrueFalse, Letter, Digit]),
        ("error_code", text),
        ("error_message", text),
        ("recorded_at", &[Time, IsoSeconds, IsoMillis, IsoMicros, EpochSeconds, EpochMillis, EpochMicros]),
        ("previous_hash", text),
    ]
};

/// A form of a value. The names are those of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// UTF-8 as it is.
    Text,
    /// Lower-case digits with hyphens.
    Uuid,
    /// 32 lower-case digits.
    Hex,
    /// PostgreSQL's output of jsonb.
    Json,
    /// The same without blanks between its tokens.
    Compact,
    /// true or false.
    TrueFalse,
    /// t or f.
    Letter,
    /// 1 or 0.
    Digit,
    /// PostgreSQL's ISO output: 2026-01-02 03:04:05.6
    Time,
    /// 2026-01-02T03:04:05Z, the rest cut off.
    IsoSeconds,
    /// 2026-01-02T03:04:05.600Z, the rest cut off: Date.prototype.toISOString of ECMAScript.
    IsoMillis,
    /// 2026-01-02T03:04:05.600000Z
    IsoMicros,
    /// Seconds since 1970, the rest cut off.
    EpochSeconds,
    /// Milliseconds since 1970, the rest cut off.
    EpochMillis,
    /// Microseconds since 1970.
    EpochMicros,
}

impl Encoding {
    fn name(self) -> &'static str {
        match self {
            Self::Text | Self::Uuid | Self::Json | Self::TrueFalse | Self::Time => "text",
            Self::Hex => "hex",
            Self::Compact => "compact",
            Self::Letter => "letter",
            Self::Digit => "digit",
            Self::IsoSeconds => "iso-s",
            Self::IsoMillis => "iso-ms",
            Self::IsoMicros => "iso-us",
            Self::EpochSeconds => "epoch-s",
            Self::EpochMillis => "epoch-ms",
            Self::EpochMicros => "epoch-us",
        }
    }
}

/// A column and how it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    place: usize,
    encoding: Encoding,
}

/// The name of the column at `place` of the log's COPY.
pub(super) fn name_of(place: usize) -> Option<&'static str> {
    COLUMNS.get(place).map(|(name, _)| *name)
}

impl Column {
    /// Reads `name` or `name:encoding`.
    pub(super) fn parse(word: &str) -> Result<Self, Fault> {
        let (name, encoding) = word.split_once(':').map_or((word, None), |(name, encoding)| (name, Some(encoding)));
        if name == "hash" {
            return Err(Fault::new("columns", "\"hash\" cannot be among them: it is what is computed"));
        }
        let found = COLUMNS.iter().enumerate().find(|(_, (known, _))| *known == name);
        let Some((place, (_, encodings))) = found else {
            let unknown = Some((name.to_owned(), COLUMNS.iter().map(|(name, _)| *name).collect()));
            return Err(Fault { unknown, ..Fault::new("columns", format!("unknown column {name:?}")) });
        };
        let wanted = encoding.unwrap_or("text");
        if let Some(encoding) = encodings.iter().find(|each| each.name() == wanted) {
            return Ok(Self { place, encoding: *encoding });
        }
        let known: Vec<&str> = encodings.iter().map(|each| each.name()).collect();
        let message = format!("unknown encoding {wanted:?} of {name}, expected one of {}", known.join(", "));
        Err(Fault { unknown: Some((wanted.to_owned(), known)), ..Fault::new("columns", message) })
    }

    /// Where it stands in the log's COPY.
    pub(super) fn place(self) -> usize {
        self.place
    }

    /// Says `value`, a field of binary COPY, at the end of `text`.
    pub(super) fn write(self, value: &[u8], text: &mut Vec<u8>) -> Result<(), Malformed> {
        match self.encoding {
            Encoding::Text => text.extend_from_slice(value),
            Encoding::Uuid => text.extend_from_slice(uuid(value)?.hyphenated().to_string().as_bytes()),
            Encoding::Hex => text.extend_from_slice(uuid(value)?.simple().to_string().as_bytes()),
            Encoding::Json => text.extend_from_slice(json(value)?),
            Encoding::Compact => compact(json(value)?, text),
            Encoding::TrueFalse => text.extend_from_slice(if boolean(value)? { b"true" } else { b"false" }),
            Encoding::Letter => text.push(if boolean(value)? { b't' } else { b'f' }),
            Encoding::Digit => text.push(if boolean(value)? { b'1' } else { b'0' }),
            time => text.extend_from_slice(timed(time, value)?.as_bytes()),
        }
        Ok(())
    }
}

fn uuid(value: &[u8]) -> Result<uuid::Uuid, Malformed> {
    uuid::Uuid::from_slice(value).map_err(|_| Malformed("a uuid has not 16 bytes"))
}

fn boolean(value: &[u8]) -> Result<bool, Malformed> {
    match value {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Malformed("a boolean is neither 0 nor 1")),
    }
}

/// The text of a jsonb: its version, 1, comes before (PostgreSQL, src/backend/utils/adt/jsonb.c, jsonb_send).
fn json(value: &[u8]) -> Result<&[u8], Malformed> {
    value.strip_prefix(&[1]).ok_or(Malformed("a jsonb is of another version"))
}

/// Blanks between tokens left out: jsonb's output has some after commas and colons, and none that mean something but in strings.
fn compact(json: &[u8], text: &mut Vec<u8>) {
    let (mut within, mut escaped) = (false, false);
    for byte in json {
        match (within, byte) {
            (false, b' ') => continue,
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => within = !within,
            _ => {}
        }
        text.push(*byte);
    }
}

fn timed(encoding: Encoding, value: &[u8]) -> Result<String, Malformed> {
    let micros: [u8; 8] = value.try_into().map_err(|_| Malformed("a timestamp has not 8 bytes"))?;
    let at = instant(i64::from_be_bytes(micros)).ok_or(Malformed("a timestamp is out of range"))?;
    let since_1970 = at.timestamp_micros();
    Ok(match encoding {
        Encoding::IsoSeconds => at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Encoding::IsoMillis => at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
        Encoding::IsoMicros => at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        Encoding::EpochSeconds => since_1970.div_euclid(MICROS).to_string(),
        Encoding::EpochMillis => since_1970.div_euclid(1000).to_string(),
        Encoding::EpochMicros => since_1970.to_string(),
        _ => {
            let text = at.format("%Y-%m-%d %H:%M:%S%.6f").to_string();
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(word: &str, value: &[u8]) -> String {
        let mut text = Vec::new();
        Column::parse(word).unwrap().write(value, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn each_type_is_said_in_each_of_its_forms() {
        let id = 0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10_u128.to_be_bytes();
        assert_eq!(said("id", &id), "01020304-0506-0708-090a-0b0c0d0e0f10");
        assert_eq!(said("user_id:hex", &id), "0102030405060708090a0b0c0d0e0f10");
        assert_eq!(["success", "success:letter", "success:digit"].map(|word| said(word, &[1])), ["true", "t", "1"]);
        assert_eq!(["success", "success:letter", "success:digit"].map(|word| said(word, &[0])), ["false", "f", "0"]);
        let json = "\u{1}{\"a\": [1, 2.50], \"b \\\" ,: \": \"x: \\\\\", \"c\": {}}";
        assert_eq!(said("details", json.as_bytes()), json[1..]);
        assert_eq!(said("details:compact", json.as_bytes()), r#"{"a":[1,2.50],"b \" ,: ":"x: \\","c":{}}"#);
        assert_eq!(said("action", "grün".as_bytes()), "grün");
        assert!(Column::parse("details").unwrap().write(b"{}", &mut Vec::new()).is_err());
    }

    #[test]
    fn times_are_said_to_the_unit_and_cut_not_rounded() {
        // 2026-01-02 03:04:05.678900 and a microsecond before 2000.
        let at = 820_638_245_678_900_i64.to_be_bytes();
        let words = ["", ":iso-s", ":iso-ms", ":iso-us", ":epoch-s", ":epoch-ms", ":epoch-us"];
        let told = words.map(|word| said(&format!("recorded_at{word}"), &at));
        assert_eq!(
            told,
            [
                "2026-01-02 03:04:05.6789",
                "2026-01-02T03:04:05Z",
                "2026-01-02T03:04:05.678Z",
                "2026-01-02T03:04:05.678900Z",
                "1767323045",
                "1767323045678",
                "1767323045678900"
            ]
        );
        let before = (-1_i64).to_be_bytes();
        assert_eq!(said("recorded_at:iso-ms", &before), "1999-12-31T23:59:59.999Z");
        assert_eq!(said("recorded_at", &0_i64.to_be_bytes()), "2000-01-01 00:00:00", "a whole second keeps its zeros");
        assert_eq!(said("recorded_at", &3_600_000_000_i64.to_be_bytes()), "2000-01-01 01:00:00");
    }
}
