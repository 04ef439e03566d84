//! Whether the log and its side table say the same, in constant memory: sums over both, compared at the end.
//!
//! Each row adds SHA-256(secret || id, time, previous hash, hash) as a number modulo 2^256. The secret is made for one
//! run: sums of plain digests could be met by somebody who chooses the content of a million rows (Wagner, "A Generalized
//! Birthday Problem", 2002), sums of digests that nobody can compute cannot. Equal sums are equal sets.
//!
//! [`Places`] walks the side table in order: its places must follow one another, and what each says of the row before it
//! is part of the sum. So equal sums also prove that every row of the log follows the row that the side table names.

use std::collections::BTreeMap;

use crate::model::audit::row::{Link, RowFacts, RowKey, link};
use crate::model::copy_binary::{Malformed, fixed, next_field};
use crate::model::digest::{Digest, Hasher, RowSum};

/// Columns of the COPY that [`Places`] reads.
pub const PLACE_COLUMNS: &str = "seq, id, recorded_at, hash";
/// How many they are.
pub const PLACE_FIELDS: u16 = 4;

/// What is added up, under a secret of one run.
#[derive(Clone, Debug)]
pub struct Tally {
    secret: [u8; 16],
    /// Rows added.
    pub rows: u64,
    sum: RowSum,
}

impl Tally {
    /// Nothing yet.
    pub fn new(secret: [u8; 16]) -> Self {
        Self { secret, rows: 0, sum: RowSum::default() }
    }

    /// The secret of the run.
    pub fn secret(&self) -> [u8; 16] {
        self.secret
    }

    /// Adds a row of the log, by its stored hash. One that has none is not added: it is found by its content.
    pub fn add(&mut self, row: &RowFacts) {
        if let Link::Hash(hash) = row.stored {
            self.add_link(&row.key, row.previous, &hash);
        }
    }

    pub(super) fn add_link(&mut self, key: &RowKey, previous: Link, hash: &Digest) {
        let mut hasher = Hasher::default();
        hasher.update(&self.secret);
        hasher.update(&key.id);
        hasher.update(&key.recorded_at.to_be_bytes());
        hasher.update(match &previous {
            Link::Hash(digest) => digest.as_bytes(),
            Link::None => &[0; 32],
            Link::Malformed => &[0xff; 32],
        });
        hasher.update(hash.as_bytes());
        self.sum.add_digest(&hasher.finish());
        self.rows += 1;
    }

    /// Adds what another tally of the same run has added.
    pub fn merge(&mut self, other: &Self) {
        self.rows += other.rows;
        self.sum.merge(&other.sum);
    }

    /// Whether both have added the same.
    pub fn agrees(&self, other: &Self) -> bool {
        (self.rows, self.sum) == (other.rows, other.sum)
    }
}

/// A stretch of the chain whose rows are archived and gone, by a signed seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// Its last place.
    pub last_seq: i64,
    /// The hash of the row there.
    pub tail: Digest,
}

/// The side table, read in the order of its places.
#[derive(Debug)]
pub struct Places {
    /// What was read so far.
    pub tally: Tally,
    /// The last place.
    pub seq: i64,
    /// The hash there.
    pub hash: Option<Digest>,
    /// Places that are gone.
    pub missing: u64,
    /// Places whose hash is none.
    pub malformed: u64,
    sealed: BTreeMap<i64, Sealed>,
    /// In order, so that the walk comes to one after the other: years of checkpoints are thousands.
    wanted: Vec<(i64, Option<Digest>)>,
    next_wanted: usize,
}

impl Places {
    /// Reads from the beginning, past stretches that are `sealed` (by first place); the hashes at `wanted` places are
    /// kept.
    pub fn new(secret: [u8; 16], sealed: BTreeMap<i64, Sealed>, wanted: impl IntoIterator<Item = i64>) -> Self {
        let mut wanted: Vec<(i64, Option<Digest>)> = wanted.into_iter().map(|seq| (seq, None)).collect();
        wanted.sort_unstable_by_key(|(seq, _)| *seq);
        wanted.dedup_by_key(|(seq, _)| *seq);
        let (tally, next_wanted) = (Tally::new(secret), 0);
        Self { tally, seq: 0, hash: None, missing: 0, malformed: 0, sealed, wanted, next_wanted }
    }

    /// Goes on after a place whose hash is known.
    pub fn after(mut self, seq: i64, hash: Option<Digest>) -> Self {
        self.seq = seq;
        self.hash = hash;
        self
    }

    /// Takes the fields of one tuple of [`PLACE_COLUMNS`].
    pub fn take(&mut self, fields: &[u8]) -> Result<(), Malformed> {
        let (seq, key, hash) = place(fields)?;
        self.pass_sealed();
        if self.is_past(seq) {
            return Ok(());
        }
        if seq != self.seq + 1 {
            // The sum cannot agree any more; what is missing is looked for afterwards.
            self.missing += u64::try_from(seq - self.seq - 1).unwrap_or(1);
            self.hash = None;
        }
        self.seq = seq;
        let Some(hash) = hash else {
            self.malformed += 1;
            return Ok(());
        };
        self.tally.add_link(&key, self.hash.map_or(Link::None, Link::Hash), &hash);
        self.hash = Some(hash);
        self.keep(seq, hash);
        Ok(())
    }

    fn keep(&mut self, seq: i64, hash: Digest) {
        while let Some((wanted, kept)) = self.wanted.get_mut(self.next_wanted)
            && *wanted <= seq
        {
            if *wanted == seq {
                *kept = Some(hash);
            }
            self.next_wanted += 1;
        }
    }

    /// Whether a place lies in a sealed stretch that was passed: its row may be gone and the place not yet.
    fn is_past(&self, seq: i64) -> bool {
        let before = || self.sealed.range(..=seq).next_back();
        seq <= self.seq && before().is_some_and(|(_, sealed)| sealed.last_seq >= seq)
    }

    fn pass_sealed(&mut self) {
        while let Some(sealed) = self.sealed.get(&(self.seq + 1)) {
            self.seq = sealed.last_seq;
            self.hash = Some(sealed.tail);
        }
    }

    /// Ends the reading: what is sealed up to the end counts.
    pub fn finish(&mut self) {
        self.pass_sealed();
    }

    /// The hash at a wanted place, if the place is there.
    pub fn hash_at(&self, seq: i64) -> Option<Digest> {
        let at = self.wanted.binary_search_by_key(&seq, |(wanted, _)| *wanted).ok()?;
        self.wanted.get(at)?.1
    }

    /// Whether every place was there, and had a hash.
    pub fn is_dense(&self) -> bool {
        self.missing == 0 && self.malformed == 0
    }
}

/// seq, key and hash of a place.
pub(super) fn place(fields: &[u8]) -> Result<(i64, RowKey, Option<Digest>), Malformed> {
    let mut rest = fields;
    let seq = i64::from_be_bytes(fixed(next_field(&mut rest)?)?);
    let id = fixed(next_field(&mut rest)?)?;
    let recorded_at = i64::from_be_bytes(fixed(next_field(&mut rest)?)?);
    let hash = match link(next_field(&mut rest)?) {
        Link::Hash(hash) => Some(hash),
        Link::None | Link::Malformed => None,
    };
    Ok((seq, RowKey { recorded_at, id }, hash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::audit::counted::digest;

    fn row(seq: i64) -> RowFacts {
        let previous = if seq == 1 { Link::None } else { Link::Hash(digest(seq - 1)) };
        let key = RowKey { recorded_at: seq, id: [7; 16] };
        RowFacts { key, previous, stored: Link::Hash(digest(seq)), computed: digest(seq) }
    }

    fn fields(seq: i64, key: RowKey, hash: Digest) -> Vec<u8> {
        let mut bytes = Vec::new();
        for field in [&seq.to_be_bytes()[..], &key.id, &key.recorded_at.to_be_bytes(), hash.to_string().as_bytes()] {
            bytes.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    fn walked(places: &[(i64, RowKey, Digest)], sealed: BTreeMap<i64, Sealed>) -> Places {
        let mut walk = Places::new([1; 16], sealed, [5]);
        places.iter().for_each(|(seq, key, hash)| walk.take(&fields(*seq, *key, *hash)).unwrap());
        walk.finish();
        walk
    }

    fn places(seqs: impl IntoIterator<Item = i64>) -> Vec<(i64, RowKey, Digest)> {
        seqs.into_iter().map(|seq| (seq, row(seq).key, digest(seq))).collect()
    }

    proptest! {
        #[test]
        fn log_and_side_table_agree_only_when_they_are_the_same(
            order in Just((1..30_i64).collect::<Vec<_>>()).prop_shuffle(), bad in 1..30_i64, how in 0..5,
        ) {
            let mut rows: Vec<_> = order.iter().map(|seq| row(*seq)).collect();
            let sum = |rows: &[RowFacts]| {
                let mut tally = Tally::new([1; 16]);
                rows.iter().for_each(|row| tally.add(row));
                tally
            };
            let walk = walked(&places(1..30), BTreeMap::new());
            prop_assert!(walk.is_dense() && sum(&rows).agrees(&walk.tally));
            prop_assert_eq!(walk.hash_at(5), Some(digest(5)));
            let at = rows.iter().position(|other| other.key == row(bad).key).unwrap();
            match how {
                0 => drop(rows.remove(at)),
                1 => rows.push(rows[at]),
                2 => rows[at].stored = Link::Hash(digest(99)),
                3 => rows[at].previous = Link::Hash(digest(99)),
                _ => rows[at].key.recorded_at += 1,
            }
            prop_assert!(!sum(&rows).agrees(&walk.tally));
        }
    }

    #[test]
    fn sealed_stretches_are_passed_and_missing_places_counted() {
        let sealed = BTreeMap::from([
            (1, Sealed { last_seq: 4, tail: digest(4) }),
            (6, Sealed { last_seq: 8, tail: digest(8) }),
        ]);
        let walk = walked(&places([5, 9, 10]), sealed.clone());
        assert!(walk.is_dense());
        assert_eq!((walk.seq, walk.hash), (10, Some(digest(10))));
        let mut tally = Tally::new([1; 16]);
        [5, 9, 10].iter().for_each(|seq| tally.add(&row(*seq)));
        assert!(tally.agrees(&walk.tally), "a row after a sealed stretch follows its tail");
        let unpruned = walked(&places(1..11), sealed.clone());
        assert!(unpruned.is_dense() && tally.agrees(&unpruned.tally), "places of sealed rows may still be there");
        assert_eq!(walked(&places([3, 4, 5, 9, 10]), sealed.clone()).missing, 0, "or some of them");
        assert_eq!(walked(&places([5, 10]), sealed).missing, 1);
        assert_eq!(walked(&places([1, 2, 5]), BTreeMap::new()).missing, 2);
    }

    #[test]
    fn hashes_are_kept_of_the_places_that_are_wanted_and_there() {
        let mut walk = Places::new([1; 16], BTreeMap::new(), [9, 2, 5, 2, 4]);
        let there = places([1, 2, 3, 5, 6]);
        there.iter().for_each(|(seq, key, hash)| walk.take(&fields(*seq, *key, *hash)).unwrap());
        let kept: Vec<_> = [1, 2, 4, 5, 9].map(|seq| walk.hash_at(seq)).into();
        assert_eq!(kept, [None, Some(digest(2)), None, Some(digest(5)), None]);
    }

    #[test]
    fn everything_sealed_still_has_its_end() {
        let walk = walked(&[], BTreeMap::from([(1, Sealed { last_seq: 4, tail: digest(4) })]));
        assert_eq!((walk.seq, walk.hash), (4, Some(digest(4))));
    }
}
