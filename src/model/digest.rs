//! SHA-256 digests and the order-free row sums built from them.
//!
//! A [`RowSum`] adds the SHA-256 of each row as a 256-bit number, modulo 2^256. Addition commutes, so the sum of a
//! table does not depend on the order in which its rows are read, and two sums can be merged. It is a proof against
//! accident and against whoever cannot choose row contents freely; signatures, not sums, answer for malice.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use sha2::{Digest as _, Sha256};

/// A SHA-256 digest (FIPS 180-4). Printed and stored as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for Digest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Debug, thiserror::Error)]
#[error("read {0:?} as a SHA-256 digest: expected 64 hexadecimal digits")]
pub struct NotADigest(String);

impl FromStr for Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        bytes_from_hex(text).map(Self).ok_or_else(|| NotADigest(text.to_owned()))
    }
}

fn bytes_from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(bytes)
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A running SHA-256.
#[derive(Clone, Debug, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// The sum, modulo 2^256, of the SHA-256 digests of a set of rows; limbs little-endian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum([u64; 4]);

impl RowSum {
    /// Adds one row, given as its text in COPY format without the line end.
    pub fn add_row(&mut self, row: &[u8]) {
        let digest: [u8; 32] = Sha256::digest(row).into();
        self.merge(&Self::from_digest(&digest));
    }

    /// Adds one row, given as the digest of what [`RowSum::add_row`] takes.
    pub fn add_digest(&mut self, digest: &Digest) {
        self.merge(&Self::from_digest(&digest.0));
    }

    /// Adds every row of `other`.
    pub fn merge(&mut self, other: &Self) {
        let mut carry = false;
        for (limb, more) in self.0.iter_mut().zip(other.0) {
            let (sum, first) = limb.overflowing_add(more);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            *limb = sum;
            carry = first || second;
        }
    }

    /// Takes every row of `other` away again.
    pub fn take_away(&mut self, other: &Self) {
        let mut borrow = false;
        for (limb, less) in self.0.iter_mut().zip(other.0) {
            let (left, first) = limb.overflowing_sub(less);
            let (left, second) = left.overflowing_sub(u64::from(borrow));
            *limb = left;
            borrow = first || second;
        }
    }

    /// The sum as 32 bytes, least first.
    pub fn to_bytes(self) -> [u8; 32] {
        self.to_digest().0
    }

    /// The sum that [`RowSum::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self::from_digest(bytes)
    }

    fn from_digest(digest: &[u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (limb, bytes) in limbs.iter_mut().zip(digest.as_chunks().0) {
            *limb = u64::from_le_bytes(*bytes);
        }
        Self(limbs)
    }

    fn to_digest(self) -> Digest {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&limb.to_le_bytes());
        }
        Digest(bytes)
    }
}

impl fmt::Display for RowSum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_digest().fmt(f)
    }
}

impl Serialize for RowSum {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_digest().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for RowSum {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Digest::deserialize(deserializer).map(|digest| Self::from_digest(&digest.0))
    }
}

/// What a table's rows add up to: the proof of equality between a dump and a restored table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSum {
    /// Rows counted.
    pub rows: u64,
    /// Bytes of COPY text, line ends included.
    pub bytes: u64,
    /// Order-free content sum.
    pub sum: RowSum,
}

impl TableSum {
    /// Counts one row, given as its COPY text without the line end.
    pub fn add_row(&mut self, row: &[u8]) {
        self.rows += 1;
        self.bytes += row.len() as u64 + 1;
        self.sum.add_row(row);
    }

    /// Counts one row of `length` bytes, line end not included, whose text went through `hasher`: a row that is too
    /// long to be held whole.
    pub fn add_hashed_row(&mut self, hasher: Hasher, length: u64) {
        self.rows += 1;
        self.bytes += length + 1;
        self.sum.add_digest(&hasher.finish());
    }

    /// Adds everything `other` counted.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.sum.merge(&other.sum);
    }

    /// Takes away everything `other` counted, which must have been counted here before.
    pub fn take_away(&mut self, other: &Self) {
        self.rows = self.rows.wrapping_sub(other.rows);
        self.bytes = self.bytes.wrapping_sub(other.bytes);
        self.sum.take_away(&other.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_abc_is_the_one_of_fips_180() {
        let digest = Digest::of(b"abc");
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn a_text_that_is_no_digest_is_refused() {
        assert!("ba78".parse::<Digest>().is_err());
        assert!("g".repeat(64).parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err());
    }

    #[test]
    fn a_sum_does_not_depend_on_the_order_of_rows() {
        let rows: Vec<String> = (0..500).map(|n| format!("{n}\trow {n}")).collect();
        let (mut forward, mut backward) = (TableSum::default(), TableSum::default());
        rows.iter().for_each(|row| forward.add_row(row.as_bytes()));
        rows.iter().rev().for_each(|row| backward.add_row(row.as_bytes()));
        assert_eq!(forward, backward);
    }

    #[test]
    fn a_row_met_twice_differs_from_a_row_met_once_and_from_none() {
        let mut sums = vec![TableSum::default()];
        for _ in 0..3 {
            let mut next = *sums.last().unwrap();
            next.add_row(b"same");
            assert!(!sums.iter().any(|sum| sum.sum == next.sum));
            sums.push(next);
        }
    }

    #[test]
    fn addition_carries_through_all_limbs_and_wraps() {
        let mut sum = RowSum([u64::MAX; 4]);
        sum.merge(&RowSum([1, 0, 0, 0]));
        assert_eq!(sum, RowSum::default());
    }

    #[test]
    fn a_row_hashed_in_pieces_counts_like_a_row_hashed_whole() {
        let (mut whole, mut pieces, mut hasher) = (TableSum::default(), TableSum::default(), Hasher::default());
        whole.add_row(b"1\tone");
        hasher.update(b"1\t");
        hasher.update(b"one");
        pieces.add_hashed_row(hasher, 5);
        assert_eq!(pieces, whole);
    }

    #[test]
    fn a_sum_survives_json() {
        let mut sum = TableSum::default();
        sum.add_row(b"1\tone");
        let text = serde_json::to_string(&sum).unwrap();
        assert_eq!(serde_json::from_str::<TableSum>(&text).unwrap(), sum);
    }
}
