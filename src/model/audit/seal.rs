//! Seals: signed statements that let a partition of the log go, and what follows from them for the rest of the chain.
//!
//! A seal says which stretches of the chain lay in a partition, what came before each and what it ended with, the Merkle root
//! over the rows' hashes in the order of their places, and where the rows are archived. The signed object decides, never the
//! row that the database keeps of it. Rows of two months lie interleaved around midnight, so a partition may hold several stretches.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::audit::checkpoint::{Kept, Origin, canonical};
use crate::model::audit::link::Segment;
use crate::model::audit::merkle::{self, Tree};
use crate::model::audit::profile::Profiles;
use crate::model::audit::row::{Link, RowKey};
use crate::model::audit::tally::{Sealed, Tally, place};
use crate::model::copy_binary::Malformed;
use crate::model::digest::{Digest, TableSum};
use crate::model::id::ArtifactId;
use crate::model::key::ObjectKey;
use crate::model::table::QualifiedTable;

/// Format number of the document.
pub const FORMAT: u32 = 1;

/// Places that follow one another, all of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The first place.
    pub first: i64,
    /// The last place.
    pub last: i64,
    /// The hash of the row before the first; nothing before the first row of all.
    pub after: Option<Digest>,
    /// The hash of the last row.
    pub tail: Digest,
}

impl Stretch {
    fn rows(&self) -> u64 {
        u64::try_from(self.last - self.first + 1).unwrap_or_default()
    }
}

/// The archive of a partition in one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copy {
    /// The repository's name in the configuration.
    pub repository: String,
    /// The object that holds the rows.
    pub key: ObjectKey,
    /// The store's version id, in a versioned bucket.
    pub version: Option<String>,
    /// SHA-256 of the stored bytes.
    pub stored_digest: Digest,
    /// SHA-256 before any encoding.
    pub content_digest: Digest,
}

/// Where a partition's rows are archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archived {
    /// The artifact; the same in every repository.
    pub id: ArtifactId,
    /// What its rows add up to.
    pub content: TableSum,
    /// Its copies, read back before this was signed.
    pub copies: Vec<Copy>,
}

/// A signed statement that lets a partition go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Format number.
    pub format: u32,
    /// The chain.
    pub chain: String,
    /// Its place among the seals of the chain, from 1.
    pub number: u32,
    /// The partition.
    pub partition: QualifiedTable,
    /// The first instant of the partition, as PostgreSQL prints it, UTC.
    pub lower: String,
    /// The instant after its last.
    pub upper: String,
    /// How many rows.
    pub rows: u64,
    /// Their places, in order.
    pub stretches: Vec<Stretch>,
    /// Root of the RFC 6962 tree whose leaves are the rows' hashes (32 bytes each), in the order of places.
    pub root: Digest,
    /// How often the chain had been put back on purpose.
    pub incarnation: u32,
    /// Where the rows are.
    pub archive: Archived,
    /// Which database.
    pub origin: Origin,
    /// Digest over the chain's protection as it stood.
    pub schema: Digest,
    /// The formulas of rows that are not hashed by profile v1, whole: a proof needs nothing but the seal.
    #[serde(default, skip_serializing_if = "Profiles::is_empty")]
    pub profiles: Profiles,
    /// Digest of the agent's configuration.
    pub configuration: Digest,
    /// When it was signed.
    pub sealed: DateTime<Utc>,
    /// Digest of the seal before it.
    pub previous: Option<Digest>,
}

impl Seal {
    /// The bytes that are signed, as those of a checkpoint.
    pub fn canonical(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(canonical(&serde_json::to_value(self)?).into_bytes())
    }

    /// Whether it speaks of the same rows at the same places as `other`.
    pub fn is_of_the_same_rows(&self, other: &Self) -> bool {
        (&self.partition, self.rows, &self.stretches, self.root)
            == (&other.partition, other.rows, &other.stretches, other.root)
    }

    /// The first and the last place; nothing of an empty partition.
    pub fn range(&self) -> Option<(i64, i64)> {
        Some((self.stretches.first()?.first, self.stretches.last()?.last))
    }

    /// Whether its places are in order, add up to its rows, and are none but places.
    pub fn is_consistent(&self) -> bool {
        let in_order = self.stretches.windows(2).all(|pair| pair[0].last < pair[1].first);
        let each = self.stretches.iter().all(|stretch| stretch.first >= 1 && stretch.first <= stretch.last);
        let begins = self.stretches.iter().all(|stretch| stretch.after.is_some() == (stretch.first > 1));
        in_order && each && begins && self.stretches.iter().map(Stretch::rows).sum::<u64>() == self.rows
    }

    /// Whether it still has to hold: the chain was not put back behind it by a restore that somebody has stated later.
    pub fn counts(&self, kept: &Kept) -> bool {
        self.range().is_none_or(|(_, last)| kept.counts(self.incarnation, last))
    }
}

/// What stands sealed and gone, over all seals that apply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedRanges(Vec<Stretch>);

impl SealedRanges {
    /// Those of `seals`; stretches that follow one another are one.
    pub fn of<'a>(seals: impl IntoIterator<Item = &'a Seal>) -> Self {
        let mut all: Vec<Stretch> = seals.into_iter().flat_map(|seal| seal.stretches.iter().copied()).collect();
        all.sort_by_key(|stretch| (stretch.first, stretch.last));
        all.dedup();
        let mut joined: Vec<Stretch> = Vec::new();
        for next in all {
            match joined.last_mut() {
                Some(last) if last.last + 1 == next.first && Some(last.tail) == next.after => {
                    (last.last, last.tail) = (next.last, next.tail);
                }
                _ => joined.push(next),
            }
        }
        Self(joined)
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the place `seq` is.
    pub fn covers(&self, seq: i64) -> bool {
        let at = self.0.partition_point(|stretch| stretch.first <= seq);
        at > 0 && self.0[at - 1].last >= seq
    }

    /// The hash at `seq`, if a stretch ends there.
    pub fn tail_at(&self, seq: i64) -> Option<Digest> {
        self.0.iter().find(|stretch| stretch.last == seq).map(|stretch| stretch.tail)
    }

    /// The last place of the stretch that the chain begins with; 0 when it does not begin with one.
    pub fn beginning(&self) -> i64 {
        self.0.first().filter(|stretch| stretch.first == 1).map_or(0, |stretch| stretch.last)
    }

    /// In the words of whoever walks the places.
    pub fn by_first(&self) -> BTreeMap<i64, Sealed> {
        let one = |stretch: &Stretch| (stretch.first, Sealed { last_seq: stretch.last, tail: stretch.tail });
        self.0.iter().map(one).collect()
    }

    /// In the words of whoever links rows.
    pub fn segments(&self) -> Vec<Segment> {
        let one = |stretch: &Stretch| Segment {
            after: stretch.after,
            first: RowKey::default(),
            tail: stretch.tail,
            rows: stretch.rows(),
        };
        self.0.iter().map(one).collect()
    }

    /// First places, last places, and the hashes at the last.
    pub fn stretches(&self) -> &[Stretch] {
        &self.0
    }
}

/// Walks the places of one partition, in order, those of others between them included: finds its stretches, adds up its rows
/// with the hashes before them, and grows the tree.
#[derive(Debug)]
pub struct Walk<'a> {
    /// Microseconds since 2000-01-01: the partition's rows lie from the first until before the second.
    range: (i64, i64),
    sealed: &'a SealedRanges,
    /// The rows, each after the hash that the side table has before it.
    pub tally: Tally,
    tree: Tree,
    stretches: Vec<Stretch>,
    before: Option<(i64, Digest)>,
    /// Whether the place before was the partition's.
    inside: bool,
    broken: bool,
}

/// What a walk came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Walked {
    /// The stretches, in order.
    pub stretches: Vec<Stretch>,
    /// The root over the hashes.
    pub root: Digest,
}

impl<'a> Walk<'a> {
    /// A walk over the partition whose rows' times lie in `range`.
    pub fn new(range: (i64, i64), sealed: &'a SealedRanges, secret: [u8; 16]) -> Self {
        let (tally, tree) = (Tally::new(secret), Tree::default());
        Self { range, sealed, tally, tree, stretches: Vec::new(), before: None, inside: false, broken: false }
    }

    /// Takes the fields of one tuple of [`crate::model::audit::tally::PLACE_COLUMNS`].
    pub fn take(&mut self, fields: &[u8]) -> Result<(), Malformed> {
        let (seq, key, hash) = place(fields)?;
        let follows = self.before.is_some_and(|(last, _)| last + 1 == seq);
        let after = match self.before {
            Some((_, hash)) if follows => Some(hash),
            _ => self.sealed.tail_at(seq - 1),
        };
        let Some(hash) = hash else {
            self.broken = true;
            return Ok(());
        };
        let mine = key.recorded_at >= self.range.0 && key.recorded_at < self.range.1;
        if mine {
            self.tally.add_link(&key, after.map_or(Link::None, Link::Hash), &hash);
            self.tree.push(merkle::leaf(hash.as_bytes()));
            match self.stretches.last_mut().filter(|_| self.inside && follows) {
                Some(stretch) => (stretch.last, stretch.tail) = (seq, hash),
                None => self.stretches.push(Stretch { first: seq, last: seq, after, tail: hash }),
            }
            self.broken |= after.is_none() && seq > 1;
        }
        (self.inside, self.before) = (mine, Some((seq, hash)));
        Ok(())
    }

    /// The stretches and the root; nothing when a place has no hash, or what comes before a stretch is not known.
    pub fn finish(self) -> Option<Walked> {
        (!self.broken).then(|| Walked { root: self.tree.root(), stretches: self.stretches })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::counted::{digest, stretch};

    fn fields(seq: i64, recorded_at: i64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let hash = digest(seq).to_string();
        for field in [&seq.to_be_bytes()[..], &[7; 16], &recorded_at.to_be_bytes(), hash.as_bytes()] {
            bytes.extend_from_slice(&u32::try_from(field.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }

    fn walked(places: &[(i64, i64)], sealed: &SealedRanges) -> (Option<Walked>, u64) {
        let mut walk = Walk::new((100, 200), sealed, [1; 16]);
        places.iter().for_each(|(seq, at)| walk.take(&fields(*seq, *at)).unwrap());
        let rows = walk.tally.rows;
        (walk.finish(), rows)
    }

    fn root(seqs: &[i64]) -> Digest {
        let mut tree = Tree::default();
        seqs.iter().for_each(|seq| tree.push(merkle::leaf(digest(*seq).as_bytes())));
        tree.root()
    }

    #[test]
    fn rows_of_two_months_lie_interleaved_and_are_told_apart() {
        let nothing = SealedRanges::default();
        let (found, rows) = walked(&[(1, 100), (2, 150), (3, 200), (4, 199), (5, 300)], &nothing);
        let expected = Walked { stretches: vec![stretch(1, 2), stretch(4, 4)], root: root(&[1, 2, 4]) };
        assert_eq!((found, rows), (Some(expected), 3));
    }

    #[test]
    fn what_comes_before_a_stretch_is_known_from_a_seal_or_not_at_all() {
        let sealed = SealedRanges(vec![stretch(1, 6), stretch(8, 8)]);
        let (found, _) = walked(&[(7, 150), (9, 160)], &sealed);
        let expected = Walked { stretches: vec![stretch(7, 7), stretch(9, 9)], root: root(&[7, 9]) };
        assert_eq!(found, Some(expected));
        assert_eq!(walked(&[(7, 150), (9, 160)], &SealedRanges::default()).0, None);
        assert_eq!(walked(&[], &sealed), (Some(Walked { stretches: vec![], root: root(&[]) }), 0));
    }

    #[test]
    fn sealed_stretches_that_follow_one_another_are_one() {
        let of = |stretches: Vec<Stretch>| SealedRanges::of(&[seal(stretches)]);
        assert_eq!(of(vec![stretch(1, 4), stretch(5, 9), stretch(11, 12)]).0, [stretch(1, 9), stretch(11, 12)]);
        let ranges = of(vec![stretch(1, 4), stretch(11, 12)]);
        let covered: Vec<i64> = (0..15).filter(|seq| ranges.covers(*seq)).collect();
        assert_eq!(covered, [1, 2, 3, 4, 11, 12]);
        assert_eq!((ranges.beginning(), ranges.tail_at(12), ranges.tail_at(11)), (4, Some(digest(12)), None));
        let forged = Stretch { after: Some(digest(99)), ..stretch(5, 9) };
        assert_eq!(of(vec![stretch(1, 4), forged]).0.len(), 2, "what does not follow is not joined");
    }

    fn seal(stretches: Vec<Stretch>) -> Seal {
        let rows = stretches.iter().map(Stretch::rows).sum();
        Seal {
            format: FORMAT,
            chain: "audit_logs".into(),
            number: 1,
            partition: QualifiedTable::new("public", "audit_logs_2022_01"),
            lower: "2022-01-01 00:00:00".into(),
            upper: "2022-02-01 00:00:00".into(),
            rows,
            stretches,
            root: digest(0),
            incarnation: 0,
            archive: Archived {
                id: "0192f0c0-0000-7000-8000-000000000000".parse().unwrap(),
                content: TableSum::default(),
                copies: Vec::new(),
            },
            origin: Origin::default(),
            schema: digest(0),
            profiles: Profiles::default(),
            configuration: digest(0),
            sealed: DateTime::from_timestamp(1_800_000_000, 0).unwrap(),
            previous: None,
        }
    }

    #[test]
    fn a_seal_that_contradicts_itself_is_not_consistent() {
        assert!(seal(vec![stretch(1, 4), stretch(6, 6)]).is_consistent());
        assert!(seal(Vec::new()).is_consistent(), "an empty month");
        assert!(!seal(vec![stretch(1, 4), stretch(4, 6)]).is_consistent());
        assert!(!Seal { rows: 9, ..seal(vec![stretch(1, 4)]) }.is_consistent());
        assert!(!seal(vec![Stretch { after: None, ..stretch(3, 4) }]).is_consistent());
        let bytes = seal(vec![stretch(1, 4)]).canonical().unwrap();
        let read: Seal = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(read.canonical().unwrap(), bytes);
    }
}
