//! Key buckets: what the keys of a relation add up to, in parts small enough to say where a key is gone.
//!
//! A key falls into a bucket by its SHA-256; a bucket holds a count and a [`RowSum`] of those digests. Rows that a parent
//! saw and that are unchanged are among the parent's rows, so equal counts and sums prove that none of a bucket's keys is
//! missing. A bucket whose missing keys are exactly the changed ones has only updates. Any other difference marks it: for
//! marked buckets the keys that are there are written down, and a restore removes every other key of theirs.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::digest::{Digest, Hasher, RowSum};

/// Bytes of one bucket as stored: the count, then the sum, both least byte first.
pub const STORED_BYTES: usize = 40;

/// Keys that a bucket is meant to hold: fewer make larger manifests, more make a deletion cost more keys.
const KEYS_IN_A_BUCKET: u64 = 64;

/// Most buckets of one relation.
const MOST: u64 = 1 << 16;

/// Most buckets of one artifact, so that memory does not grow with the database: 10 MiB of sums.
pub const MOST_IN_ALL: u64 = 1 << 18;

/// How many buckets relations of so many rows get, each for itself and all together within bounds.
pub fn bucket_counts(rows: &[u64]) -> Vec<u32> {
    let wanted: Vec<u64> = rows.iter().map(|rows| rows.div_ceil(KEYS_IN_A_BUCKET).clamp(1, MOST)).collect();
    let all: u64 = wanted.iter().sum();
    let fit = |count: u64| if all > MOST_IN_ALL { (count * MOST_IN_ALL / all).max(1) } else { count };
    wanted.into_iter().map(|count| u32::try_from(fit(count)).unwrap_or(1)).collect()
}

/// What the keys of one bucket add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Keys in it.
    pub count: u64,
    /// Sum of their digests.
    pub sum: RowSum,
}

/// What the keys of one relation add up to, by bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySums(Vec<Bucket>);

impl KeySums {
    /// No keys yet, in `buckets` buckets (at least one).
    pub fn new(buckets: u32) -> Self {
        Self(vec![Bucket::default(); buckets.max(1) as usize])
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// The bucket that a key with `digest` belongs to.
    pub fn bucket_of(&self, digest: &Digest) -> usize {
        let mut first = [0; 8];
        first.copy_from_slice(&digest.as_bytes()[..8]);
        let scaled = (u128::from(u64::from_be_bytes(first)) * self.0.len() as u128) >> 64;
        usize::try_from(scaled).unwrap_or_default()
    }

    /// Adds the key with `digest`.
    pub fn add(&mut self, digest: &Digest) {
        let at = self.bucket_of(digest);
        let bucket = &mut self.0[at];
        bucket.count += 1;
        bucket.sum.add_digest(digest);
    }

    /// Adds every key of `other`, which has as many buckets.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, more) in self.0.iter_mut().zip(&other.0) {
            bucket.count += more.count;
            bucket.sum.merge(&more.sum);
        }
    }

    /// Keys in all buckets.
    pub fn keys(&self) -> u64 {
        self.0.iter().map(|bucket| bucket.count).sum()
    }

    /// The stored form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * STORED_BYTES);
        for bucket in &self.0 {
            bytes.extend_from_slice(&bucket.count.to_le_bytes());
            bytes.extend_from_slice(&bucket.sum.to_bytes());
        }
        bytes
    }

    /// Reads the stored form; nothing when it is no whole number of buckets.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (stored, []) = bytes.as_chunks::<STORED_BYTES>() else { return None };
        let read = |stored: &[u8; STORED_BYTES]| {
            let (mut count, mut sum) = ([0; 8], [0; 32]);
            count.copy_from_slice(&stored[..8]);
            sum.copy_from_slice(&stored[8..]);
            Bucket { count: u64::from_le_bytes(count), sum: RowSum::from_bytes(&sum) }
        };
        (!stored.is_empty()).then(|| Self(stored.iter().map(read).collect()))
    }

    /// SHA-256 of the stored form.
    pub fn digest(&self) -> Digest {
        let mut hasher = Hasher::default();
        hasher.update(&self.to_bytes());
        hasher.finish()
    }

    /// Which buckets lost keys since `self`, the parent's state: `unchanged` are the keys of rows that the parent saw,
    /// `changed` those of rows written since. Errors when unchanged rows cannot all be the parent's.
    pub fn marked(&self, unchanged: &Self, changed: &Self) -> Result<Marked, Contradiction> {
        let mut marked = Marked::none(self.buckets());
        let all = self.0.iter().zip(&unchanged.0).zip(&changed.0).enumerate();
        for (at, ((parent, unchanged), changed)) in all {
            if parent == unchanged {
                continue;
            }
            if unchanged.count >= parent.count {
                return Err(Contradiction);
            }
            let (count, mut sum) = (unchanged.count + changed.count, unchanged.sum);
            sum.merge(&changed.sum);
            if (Bucket { count, sum }) != *parent {
                marked.mark(at);
            }
        }
        let same = |sums: &Self| sums.0.len() == self.0.len();
        if same(unchanged) && same(changed) { Ok(marked) } else { Err(Contradiction) }
    }
}

/// Rows came into a relation without being written: what the parent holds is no base for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("match the keys with the parent's: there are unchanged rows that the parent did not have")]
pub struct Contradiction;

/// A set of buckets. In JSON the base64 of a bit for each, least bit first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marked(Vec<u8>);

impl Marked {
    fn none(buckets: u32) -> Self {
        Self(vec![0; (buckets as usize).div_ceil(8)])
    }

    fn mark(&mut self, at: usize) {
        self.0[at / 8] |= 1 << (at % 8);
    }

    /// Whether the bucket `at` is in it.
    pub fn has(&self, at: usize) -> bool {
        self.0.get(at / 8).is_some_and(|byte| byte & 1 << (at % 8) != 0)
    }

    /// Whether it holds no bucket.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|byte| *byte == 0)
    }

    /// How many buckets it holds.
    pub fn count(&self) -> u32 {
        self.0.iter().map(|byte| byte.count_ones()).sum()
    }
}

impl Serialize for Marked {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Marked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(buckets: u32, keys: impl IntoIterator<Item = u32>) -> KeySums {
        let mut sums = KeySums::new(buckets);
        keys.into_iter().for_each(|key| sums.add(&Digest::of(key.to_string().as_bytes())));
        sums
    }

    #[test]
    fn what_is_stored_is_what_is_read() {
        let all = sums(7, 0..1000);
        assert_eq!(KeySums::from_bytes(&all.to_bytes()).unwrap(), all);
        assert_eq!((all.keys(), all.to_bytes().len()), (1000, 7 * STORED_BYTES));
        assert_eq!(KeySums::from_bytes(&all.to_bytes()[1..]), None);
        assert_eq!(KeySums::from_bytes(&[]), None);
        let mut halves = sums(7, 0..500);
        halves.merge(&sums(7, 500..1000));
        assert_eq!(halves.digest(), all.digest());
    }

    #[test]
    fn inserts_and_updates_mark_nothing() {
        let parent = sums(16, 0..1000);
        assert!(parent.marked(&sums(16, 0..1000), &sums(16, 1000..1100)).unwrap().is_empty(), "inserts");
        assert!(parent.marked(&sums(16, 100..1000), &sums(16, 0..100)).unwrap().is_empty(), "updates");
    }

    #[test]
    fn a_deleted_key_marks_its_bucket_and_no_other() {
        let parent = sums(16, 0..1000);
        let gone = Digest::of(b"42");
        let marked = parent.marked(&sums(16, (0..1000).filter(|key| *key != 42)), &KeySums::new(16)).unwrap();
        assert_eq!(marked.count(), 1);
        assert!(marked.has(parent.bucket_of(&gone)));
        let swapped = parent.marked(&sums(1, 0..10), &KeySums::new(1));
        assert_eq!(swapped, Err(Contradiction), "another number of buckets");
    }

    #[test]
    fn a_changed_key_hides_no_deleted_one() {
        let parent = sums(1, 0..10);
        let marked = parent.marked(&sums(1, 0..9), &sums(1, [77])).unwrap();
        assert_eq!(marked.count(), 1, "9 is gone and 77 came: the counts are equal, the sums are not");
    }

    #[test]
    fn rows_that_came_unwritten_are_a_contradiction() {
        let parent = sums(4, 0..10);
        assert_eq!(parent.marked(&sums(4, 0..11), &KeySums::new(4)), Err(Contradiction));
        assert_eq!(sums(1, 0..10).marked(&sums(1, 1..11), &KeySums::new(1)), Err(Contradiction));
    }

    #[test]
    fn buckets_follow_the_rows_within_bounds() {
        assert_eq!(bucket_counts(&[0, 64, 65, 6400]), [1, 1, 2, 100]);
        let many = bucket_counts(&[u64::MAX / 100; 40]);
        assert!(many.iter().map(|count| u64::from(*count)).sum::<u64>() <= MOST_IN_ALL);
        assert!(bucket_counts(&vec![1_000_000; 10_000]).iter().all(|count| *count >= 1));
    }

    #[test]
    fn marks_travel_as_text() {
        let mut marked = Marked::none(20);
        marked.mark(3);
        marked.mark(19);
        let text = serde_json::to_string(&marked).unwrap();
        let read: Marked = serde_json::from_str(&text).unwrap();
        assert!(read == marked && read.has(3) && read.has(19) && !read.has(4) && !read.has(200));
    }
}
