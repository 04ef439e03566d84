//! The canonical bytes of an audit row, profile `dbagent/audit_logs/v1`, and the reading of rows from binary COPY.
//!
//! `hash = SHA-256("dbagent/audit_logs/v1\n" || F(id) … F(recorded_at) F(previous_hash))`, F being int32 big-endian length
//! and bytes, -1 for NULL. That is byte for byte the tuple of a binary COPY of these 14 columns in UTF-8 (PostgreSQL
//! manual, "COPY", binary format), so that the verifier hashes what comes without decoding it.

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::audit::profile::Profiles;
use crate::model::copy_binary::{CopyReader, Malformed, fixed, next_field};
use crate::model::digest::{Digest, Hasher};

/// What every hash begins with.
pub const PROFILE: &[u8] = b"dbagent/audit_logs/v1\n";

/// The columns that are hashed, in order, and `hash` itself: the column list of the COPY that [`CopyReader`] reads.
pub const COPY_COLUMNS: &str = "id, user_id, session_id, action, resource, resource_id, details, ip_address, \
    user_agent, success, error_code, error_message, recorded_at, previous_hash, hash";

/// Seconds from 1970-01-01 to 2000-01-01, from which PostgreSQL counts.
pub(super) const EPOCH_SECONDS: i64 = 946_684_800;

/// Columns that are hashed.
pub(super) const HASHED: usize = 14;
/// Where `recorded_at` stands among the columns.
pub(super) const RECORDED_AT: usize = 12;
/// Where `previous_hash` stands.
pub(super) const PREVIOUS: usize = 13;

/// The primary key of a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowKey {
    /// Microseconds since 2000-01-01 UTC; the ends of the range are infinity.
    pub recorded_at: i64,
    /// The uuid's bytes.
    pub id: [u8; 16],
}

/// A hash column as it lies in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// NULL: nothing comes before.
    None,
    /// 64 lower-case hexadecimal digits.
    Hash(Digest),
    /// Anything else. The table's checks keep it out; whoever dropped them can put it in.
    Malformed,
}

/// What the verifier needs of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowFacts {
    /// Its key.
    pub key: RowKey,
    /// `previous_hash`.
    pub previous: Link,
    /// `hash`.
    pub stored: Link,
    /// What `hash` must be, by the row's content.
    pub computed: Digest,
}

impl RowFacts {
    /// Whether the stored hash is that of the content.
    pub fn is_sound(&self) -> bool {
        self.stored == Link::Hash(self.computed)
    }

    /// Reads the fields of one tuple, the count of fields cut off. A first row that names `profiles`' beginning of the chain
    /// comes after nothing.
    fn read(fields: &[u8], profiles: &Profiles) -> Result<Self, Malformed> {
        let mut rest = fields;
        let mut key = RowKey::default();
        let mut previous = Link::None;
        for column in 0..HASHED {
            let field = next_field(&mut rest)?;
            match column {
                0 => key.id = fixed(field)?,
                RECORDED_AT => key.recorded_at = i64::from_be_bytes(fixed(field)?),
                PREVIOUS => previous = link(field),
                _ => {}
            }
        }
        let hashed = &fields[..fields.len() - rest.len()];
        let stored = link(next_field(&mut rest)?);
        if !rest.is_empty() {
            return Err(Malformed("bytes follow the last field"));
        }
        if profiles.is_empty() {
            return Ok(Self { key, previous, stored, computed: hash_v1(hashed) });
        }
        let begins = profiles.genesis().is_some_and(|genesis| previous == Link::Hash(genesis));
        let previous = if begins { Link::None } else { previous };
        Ok(Self { key, previous, stored, computed: profiles.hash_of(hashed)? })
    }
}

/// The hash of a row with these canonical bytes, by profile v1.
pub fn hash_v1(canonical: &[u8]) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(PROFILE);
    hasher.update(canonical);
    hasher.finish()
}

/// `micros` since 2000-01-01 as an instant; nothing for infinity and what no calendar here has.
pub fn instant(micros: i64) -> Option<DateTime<Utc>> {
    let since_1970 = micros.checked_add(EPOCH_SECONDS.checked_mul(1_000_000)?)?;
    DateTime::UNIX_EPOCH.checked_add_signed(TimeDelta::microseconds(since_1970))
}

pub(super) fn link(field: Option<&[u8]>) -> Link {
    match field {
        None => Link::None,
        Some(text) => digest(text).map_or(Link::Malformed, Link::Hash),
    }
}

/// 64 lower-case hexadecimal digits as a digest. Without a branch for each digit: whether one is a letter is a coin's toss that
/// no processor predicts, and three hashes a row made that the most expensive part of reading it.
fn digest(text: &[u8]) -> Option<Digest> {
    let text: &[u8; 64] = text.try_into().ok()?;
    let (mut values, mut all) = ([0_u8; 64], 1);
    for (value, byte) in values.iter_mut().zip(text) {
        let (number, letter) = (byte.wrapping_sub(b'0'), byte.wrapping_sub(b'a'));
        let (is_number, is_letter) = (u8::from(number < 10), u8::from(letter < 6));
        all &= is_number | is_letter;
        *value = (number * is_number) | (letter.wrapping_add(10) * is_letter);
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(values.chunks_exact(2)) {
        *byte = pair[0] << 4 | pair[1];
    }
    (all == 1).then(|| bytes.into())
}

impl CopyReader {
    /// Takes one message of a COPY of [`COPY_COLUMNS`]; rows in a range of `profiles` are hashed by its formula.
    pub fn take_rows<E: From<Malformed>>(
        &mut self,
        message: &[u8],
        profiles: &Profiles,
        mut each: impl FnMut(RowFacts) -> Result<(), E>,
    ) -> Result<(), E> {
        self.take(message, HASHED as u16 + 1, |fields| each(RowFacts::read(fields, profiles)?))
    }
}

/// A row's values, from which its canonical bytes are made: for the vectors, and for whoever checks one row by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The uuid's bytes.
    pub id: [u8; 16],
    /// The uuid's bytes.
    pub user_id: Option<[u8; 16]>,
    /// The uuid's bytes.
    pub session_id: Option<[u8; 16]>,
    /// Text columns before `details`: action, resource, resource_id.
    pub what: [Option<String>; 3],
    /// `details` as PostgreSQL prints it.
    pub details: Option<String>,
    /// ip_address and user_agent.
    pub from: [Option<String>; 2],
    /// success.
    pub success: Option<bool>,
    /// error_code and error_message.
    pub error: [Option<String>; 2],
    /// Microseconds since 2000-01-01 UTC.
    pub recorded_at: i64,
    /// previous_hash.
    pub previous_hash: Option<String>,
}

impl Entry {
    /// The canonical bytes, without the profile's name.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512);
        let text = |text: &Option<String>| text.as_ref().map(|text| text.clone().into_bytes());
        put(&mut bytes, Some(&self.id));
        put(&mut bytes, self.user_id.as_ref().map(<[u8; 16]>::as_slice));
        put(&mut bytes, self.session_id.as_ref().map(<[u8; 16]>::as_slice));
        self.what.iter().for_each(|value| put(&mut bytes, text(value).as_deref()));
        put(&mut bytes, self.details.as_ref().map(|details| [b"\x01", details.as_bytes()].concat()).as_deref());
        self.from.iter().for_each(|value| put(&mut bytes, text(value).as_deref()));
        put(&mut bytes, self.success.map(|success| [u8::from(success)]).as_ref().map(<[u8; 1]>::as_slice));
        self.error.iter().for_each(|value| put(&mut bytes, text(value).as_deref()));
        put(&mut bytes, Some(&self.recorded_at.to_be_bytes()));
        put(&mut bytes, text(&self.previous_hash).as_deref());
        bytes
    }

    /// The row's hash, by profile v1.
    pub fn hash(&self) -> Digest {
        hash_v1(&self.canonical_bytes())
    }
}

fn put(bytes: &mut Vec<u8>, field: Option<&[u8]>) {
    // A field of PostgreSQL is at most 1 GiB.
    let length = field.map_or(-1, |field| i32::try_from(field.len()).unwrap_or(i32::MAX));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(field.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::copy_binary::SIGNATURE;

    fn entry() -> impl Strategy<Value = Entry> {
        let text = || proptest::option::of("\\PC{0,40}");
        let uuid = any::<[u8; 16]>;
        let first = (uuid(), proptest::option::of(uuid()), proptest::option::of(uuid()), [text(), text(), text()]);
        let second = (text(), [text(), text()], proptest::option::of(any::<bool>()), [text(), text()]);
        (first, second, any::<i64>(), proptest::option::of("[0-9a-f]{64}")).prop_map(
            |(first, second, recorded_at, previous_hash)| {
                let ((id, user_id, session_id, what), (details, from, success, error)) = (first, second);
                Entry { id, user_id, session_id, what, details, from, success, error, recorded_at, previous_hash }
            },
        )
    }

    fn copied(entries: &[Entry]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0; 8]].concat();
        for entry in entries {
            bytes.extend_from_slice(&15_i16.to_be_bytes());
            bytes.extend_from_slice(&entry.canonical_bytes());
            put(&mut bytes, Some(entry.hash().to_string().as_bytes()));
        }
        bytes.extend_from_slice(&(-1_i16).to_be_bytes());
        bytes
    }

    fn read(messages: &[&[u8]]) -> Result<Vec<RowFacts>, Malformed> {
        let (mut reader, mut rows) = (CopyReader::default(), Vec::new());
        for message in messages {
            reader.take_rows(message, &Profiles::default(), |row| {
                rows.push(row);
                Ok::<_, Malformed>(())
            })?;
        }
        reader.finish()?;
        Ok(rows)
    }

    proptest! {
        #[test]
        fn rows_are_read_the_same_however_the_stream_is_cut(
            entries in proptest::collection::vec(entry(), 0..6), cuts in proptest::collection::vec(any::<u16>(), 0..9),
        ) {
            let bytes = copied(&entries);
            let whole = read(&[&bytes]).unwrap();
            prop_assert_eq!(whole.len(), entries.len());
            for (row, entry) in whole.iter().zip(&entries) {
                prop_assert!(row.is_sound());
                prop_assert_eq!(row.key, RowKey { recorded_at: entry.recorded_at, id: entry.id });
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &bytes[ends[0]..ends[1]]).collect();
            prop_assert_eq!(read(&pieces).unwrap(), whole);
        }

        #[test]
        fn two_rows_that_differ_have_different_bytes(one in entry(), other in entry()) {
            prop_assert_eq!(one == other, one.canonical_bytes() == other.canonical_bytes());
        }

        #[test]
        fn a_stream_cut_short_is_never_taken_for_whole(entries in proptest::collection::vec(entry(), 1..3), at in any::<u16>()) {
            let bytes = copied(&entries);
            let at = usize::from(at) % bytes.len();
            prop_assert!(read(&[&bytes[..at]]).is_err());
        }
    }

    #[test]
    fn hashes_that_are_none_are_told_from_absent_ones() {
        assert_eq!(link(None), Link::None);
        assert_eq!(link(Some("AB".repeat(32).as_bytes())), Link::Malformed, "upper case");
        assert_eq!(link(Some(b"")), Link::Malformed);
        assert_eq!(link(Some("ab".repeat(32).as_bytes())), Link::Hash("ab".repeat(32).parse().unwrap()));
    }

    #[test]
    fn a_text_is_a_digest_exactly_when_all_its_bytes_are_digits() {
        let whole: Vec<u8> = (0..64).map(|at| b"0123456789abcdef"[at % 16]).collect();
        for at in 0..64 {
            for byte in 0..=255_u8 {
                let mut text = whole.clone();
                text[at] = byte;
                let parsed = std::str::from_utf8(&text).ok().and_then(|text| text.parse::<Digest>().ok());
                let expected = parsed.filter(|_| !byte.is_ascii_uppercase()).map_or(Link::Malformed, Link::Hash);
                assert_eq!(link(Some(&text)), expected, "byte {byte} at {at}");
            }
        }
        assert_eq!(link(Some(&whole[..63])), Link::Malformed);
        assert_eq!(link(Some(&[&whole[..], b"0"].concat())), Link::Malformed);
    }

    #[test]
    fn empty_and_absent_text_differ() {
        let absent = Entry::default();
        let empty = Entry { what: [Some(String::new()), None, None], ..Entry::default() };
        assert_ne!(absent.hash(), empty.hash());
    }
}
