//! Which blocks a stretch of the log touches, relation by relation: what an incremental base backup copies.
//!
//! Main forks only: what else a cluster is made of is always copied whole. Says "changed" where it does not know, never
//! the other way round. The stored form carries a digest of its own, because a summary that lost a bit would lose a page.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_128;

use crate::model::lsn::{Lsn, SystemId, Timeline};

/// The storage of a relation: what PostgreSQL calls a `RelFileLocator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RelationKey {
    /// Oid of its tablespace.
    pub tablespace: u32,
    /// Oid of its database; 0 for what all databases share.
    pub database: u32,
    /// Number of its files.
    pub number: u32,
}

/// What became of one relation's main fork.
#[derive(Clone, Debug, Default, PartialEq)]
struct RelationChanges {
    /// Its smallest length, in blocks: what lies at or beyond it was made since.
    limit: Option<u32>,
    blocks: RoaringBitmap,
}

/// What became of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// It must be copied whole.
    Whole,
    /// These of its blocks, counted from the file's beginning, ascending.
    Blocks(Vec<u32>),
}

/// What a stretch of the log changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BlockChanges {
    relations: BTreeMap<RelationKey, RelationChanges>,
    /// Tablespace and database of directories that were made or removed as a whole.
    databases: BTreeSet<(u32, u32)>,
    /// Why nothing may be built upon it.
    unusable: Option<String>,
}

/// Changed blocks of a file beyond which it is copied whole, in tenths.
const MOST_TENTHS: u64 = 9;

impl BlockChanges {
    /// A block was changed.
    pub fn block(&mut self, relation: RelationKey, block: u32) {
        self.relations.entry(relation).or_default().blocks.insert(block);
    }

    /// The relation was made, or cut off, at `limit` blocks.
    pub fn limit(&mut self, relation: RelationKey, limit: u32) {
        let changes = self.relations.entry(relation).or_default();
        changes.limit = Some(changes.limit.map_or(limit, |before| before.min(limit)));
    }

    /// The directory of `database` in `tablespace` was made or removed as a whole.
    pub fn database(&mut self, tablespace: u32, database: u32) {
        self.databases.insert((tablespace, database));
    }

    /// Something happened that no block says.
    pub fn refuse(&mut self, reason: impl Into<String>) {
        self.unusable.get_or_insert_with(|| reason.into());
    }

    /// Why nothing may be built upon it.
    pub fn unusable(&self) -> Option<&str> {
        self.unusable.as_deref()
    }

    /// Whether the main fork of `relation` may be another one than before.
    pub fn touches(&self, relation: RelationKey) -> bool {
        self.relations.contains_key(&relation) || self.databases.contains(&(relation.tablespace, relation.database))
    }

    /// Blocks that were changed, of all relations.
    pub fn count(&self) -> u64 {
        self.relations.values().map(|changes| changes.blocks.len()).sum()
    }

    /// Every changed block, for comparison.
    pub fn blocks(&self) -> impl Iterator<Item = (RelationKey, u32)> + '_ {
        self.relations.iter().flat_map(|(key, changes)| changes.blocks.iter().map(|block| (*key, block)))
    }

    /// Takes what another stretch changes.
    pub fn merge(&mut self, other: Self) {
        for (key, theirs) in other.relations {
            let ours = self.relations.entry(key).or_default();
            ours.blocks |= theirs.blocks;
            ours.limit = match (ours.limit, theirs.limit) {
                (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
                (ours, theirs) => ours.or(theirs),
            };
        }
        self.databases.extend(other.databases);
        if let Some(reason) = other.unusable {
            self.refuse(reason);
        }
    }

    /// What became of the file number `segment` of `relation`, which has `pages` pages now; a whole one has
    /// `segment_pages`.
    pub fn in_file(&self, relation: RelationKey, segment: u32, segment_pages: u32, pages: u32) -> Changed {
        if pages == 0 || self.databases.contains(&(relation.tablespace, relation.database)) {
            return Changed::Whole;
        }
        let Some(changes) = self.relations.get(&relation) else { return Changed::Blocks(Vec::new()) };
        let Some(first) = segment.checked_mul(segment_pages) else { return Changed::Whole };
        let last = first.saturating_add(pages - 1);
        let limit = changes.limit.unwrap_or(u32::MAX).max(first);
        if limit == first && changes.limit.is_some() {
            return Changed::Whole;
        }
        let kept = changes.blocks.range(first..=last).take_while(|block| *block < limit);
        let made = limit..=last;
        let blocks: Vec<u32> = kept.chain(made).map(|block| block - first).collect();
        match blocks.len() as u64 * 10 >= u64::from(pages) * MOST_TENTHS {
            true => Changed::Whole,
            false => Changed::Blocks(blocks),
        }
    }
}

/// The part of a record that lies in one segment, when the record goes on in the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordTail {
    /// Where the record begins.
    pub start: Lsn,
    /// Where the one before it begins; 0 where that was not read.
    pub previous: Lsn,
    /// What the pages of this log begin with.
    pub magic: u16,
    /// Bytes of the whole record.
    pub total: u32,
    /// Bytes of it that were read.
    pub got: u32,
    /// CRC-32C of what was read behind the fixed part.
    pub crc: u32,
    /// Its first bytes.
    pub kept: Vec<u8>,
}

/// What one stretch of the log changes, and which stretch that is.
///
/// A record that begins in one segment and ends in the next belongs to both where its beginning says what it changes; that
/// one is unproven, because its checksum goes over all of it. What was read of it is kept too: the beginning may end
/// within the record's head, and the segment before is gone when the next one comes.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockSummary {
    /// Whose log it is.
    pub system: SystemId,
    /// The timeline of the segment it was made of.
    pub timeline: Timeline,
    /// Where its first record begins.
    pub from: Lsn,
    /// Where the record after the last one begins whose checksum was right.
    pub proven: Lsn,
    /// Where the record after its last one begins.
    pub to: Lsn,
    /// What it changes.
    pub changes: BlockChanges,
    /// What lies in it of the record that goes on behind it.
    pub tail: Option<RecordTail>,
}

impl BlockSummary {
    /// Whether nothing lies between it and the stretch before it, which was proven up to `proven` and goes up to `to`.
    pub fn joins(&self, proven: Lsn, to: Lsn) -> bool {
        self.from <= proven || self.from == to
    }
}

/// Bytes that are no summary, or a damaged one: lower-case, fits after "failed to".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a block summary: {0}")]
pub struct BadSummary(&'static str);

const MAGIC: &[u8; 8] = b"DBAGBLK2";
const DIGEST_BYTES: usize = 16;
const NO_LIMIT: u32 = u32::MAX;

impl BlockSummary {
    /// The stored form. Little-endian: the magic `DBAGBLK2`, system identifier (8 bytes), timeline (4), from (8), proven (8), to
    /// (8); the length (4) and text of why it cannot be used, empty where it can; the number (4) of whole databases, each tablespace
    /// and database (4 and 4); the number (4) of relations, ascending, each tablespace, database, number (4 each), limit
    /// (4; all bits for none), length (4) and Roaring bitmap in its portable form; of the tail, where there is one, start (8),
    /// previous (8), total (4), got (4), checksum (4), magic (2), length (4) and first bytes; XXH3 of 128 bits over all
    /// that (16).
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.system.0.to_le_bytes());
        bytes.extend(self.timeline.0.to_le_bytes());
        bytes.extend(self.from.0.to_le_bytes());
        bytes.extend(self.proven.0.to_le_bytes());
        bytes.extend(self.to.0.to_le_bytes());
        let reason = self.changes.unusable.as_deref().unwrap_or_default();
        put_length(&mut bytes, reason.len());
        bytes.extend(reason.as_bytes());
        put_length(&mut bytes, self.changes.databases.len());
        for (tablespace, database) in &self.changes.databases {
            bytes.extend(tablespace.to_le_bytes());
            bytes.extend(database.to_le_bytes());
        }
        put_length(&mut bytes, self.changes.relations.len());
        for (key, changes) in &self.changes.relations {
            put_relation(&mut bytes, key, changes);
        }
        if let Some(tail) = &self.tail {
            put_tail(&mut bytes, tail);
        }
        let digest = xxh3_128(&bytes);
        bytes.extend(digest.to_le_bytes());
        bytes
    }

    /// Reads [`BlockSummary::to_bytes`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BadSummary> {
        let end = bytes.len().checked_sub(DIGEST_BYTES).ok_or(BadSummary("it is too short"))?;
        let (content, digest) = bytes.split_at(end);
        if xxh3_128(content).to_le_bytes() != digest {
            return Err(BadSummary("its digest is wrong"));
        }
        let mut fields = Fields(content);
        if fields.take(MAGIC.len())? != MAGIC {
            return Err(BadSummary("it does not begin as one"));
        }
        let (system, timeline) = (SystemId(fields.long()?), Timeline(fields.word()?));
        let (from, proven, to) = (Lsn(fields.long()?), Lsn(fields.long()?), Lsn(fields.long()?));
        let length = fields.length()?;
        let reason = String::from_utf8_lossy(fields.take(length)?).into_owned();
        let unusable = (!reason.is_empty()).then_some(reason);
        let mut changes = BlockChanges { unusable, ..BlockChanges::default() };
        for _ in 0..fields.word()? {
            changes.databases.insert((fields.word()?, fields.word()?));
        }
        for _ in 0..fields.word()? {
            let (key, relation) = fields.relation()?;
            changes.relations.insert(key, relation);
        }
        let tail = if fields.0.is_empty() { None } else { Some(fields.tail()?) };
        match fields.0.is_empty() {
            true => Ok(Self { system, timeline, from, proven, to, changes, tail }),
            false => Err(BadSummary("something follows its end")),
        }
    }
}

fn put_length(bytes: &mut Vec<u8>, length: usize) {
    // Lengths are those of one segment's content, or of the relations of a cluster: they fit.
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_relation(bytes: &mut Vec<u8>, key: &RelationKey, changes: &RelationChanges) {
    for word in [key.tablespace, key.database, key.number, changes.limit.unwrap_or(NO_LIMIT)] {
        bytes.extend(word.to_le_bytes());
    }
    let mut packed = changes.blocks.clone();
    packed.optimize();
    put_length(bytes, packed.serialized_size());
    // Into a vector that cannot fail.
    let _ = packed.serialize_into(bytes);
}

fn put_tail(bytes: &mut Vec<u8>, tail: &RecordTail) {
    bytes.extend(tail.start.0.to_le_bytes());
    bytes.extend(tail.previous.0.to_le_bytes());
    for word in [tail.total, tail.got, tail.crc] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(tail.magic.to_le_bytes());
    put_length(bytes, tail.kept.len());
    bytes.extend(&tail.kept);
}

/// What is left to read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], BadSummary> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(BadSummary("it ends early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn word(&mut self) -> Result<u32, BadSummary> {
        let bytes = self.take(4)?.first_chunk().ok_or(BadSummary("it ends early"))?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn long(&mut self) -> Result<u64, BadSummary> {
        let bytes = self.take(8)?.first_chunk().ok_or(BadSummary("it ends early"))?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn length(&mut self) -> Result<usize, BadSummary> {
        usize::try_from(self.word()?).map_err(|_| BadSummary("a length in it"))
    }

    fn tail(&mut self) -> Result<RecordTail, BadSummary> {
        let (start, previous) = (Lsn(self.long()?), Lsn(self.long()?));
        let (total, got, crc) = (self.word()?, self.word()?, self.word()?);
        let magic = self.take(2)?.first_chunk().ok_or(BadSummary("it ends early"))?;
        let magic = u16::from_le_bytes(*magic);
        let length = self.length()?;
        Ok(RecordTail { start, previous, magic, total, got, crc, kept: self.take(length)?.to_vec() })
    }

    fn relation(&mut self) -> Result<(RelationKey, RelationChanges), BadSummary> {
        let key = RelationKey { tablespace: self.word()?, database: self.word()?, number: self.word()? };
        let limit = Some(self.word()?).filter(|limit| *limit != NO_LIMIT);
        let length = self.length()?;
        let blocks = RoaringBitmap::deserialize_from(self.take(length)?).map_err(|_| BadSummary("a bitmap in it"))?;
        Ok((key, RelationChanges { limit, blocks }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RELATION: RelationKey = RelationKey { tablespace: 1663, database: 5, number: 16384 };
    const SEGMENT: u32 = 131_072;

    fn changed(blocks: &[u32], limit: Option<u32>) -> BlockChanges {
        let mut changes = BlockChanges::default();
        blocks.iter().for_each(|block| changes.block(RELATION, *block));
        limit.into_iter().for_each(|limit| changes.limit(RELATION, limit));
        changes
    }

    #[test]
    fn the_blocks_of_a_file_are_those_of_its_part_of_the_relation() {
        let changes = changed(&[0, 7, SEGMENT - 1, SEGMENT, SEGMENT + 3, 2 * SEGMENT], None);
        let of = |segment, pages| changes.in_file(RELATION, segment, SEGMENT, pages);
        assert_eq!(of(0, SEGMENT), Changed::Blocks(vec![0, 7, SEGMENT - 1]));
        assert_eq!(of(1, 100), Changed::Blocks(vec![0, 3]));
        assert_eq!(of(1, 3), Changed::Blocks(vec![0]), "what was cut off meanwhile is not there");
        assert_eq!(of(3, 10), Changed::Blocks(vec![]));
        let other = RelationKey { number: 1, ..RELATION };
        assert_eq!(changes.in_file(other, 0, SEGMENT, 10), Changed::Blocks(vec![]));
    }

    #[test]
    fn everything_beyond_the_smallest_length_was_made_since() {
        let changes = changed(&[3, 60, 70], Some(50));
        assert_eq!(changes.in_file(RELATION, 0, SEGMENT, 53), Changed::Blocks(vec![3, 50, 51, 52]));
        assert_eq!(changes.in_file(RELATION, 0, SEGMENT, 40), Changed::Blocks(vec![3]));
        assert_eq!(changes.in_file(RELATION, 1, SEGMENT, 40), Changed::Whole);
        assert_eq!(changed(&[], Some(0)).in_file(RELATION, 0, SEGMENT, 40), Changed::Whole);
        assert_eq!(changed(&[], Some(SEGMENT)).in_file(RELATION, 1, SEGMENT, 40), Changed::Whole);
    }

    #[test]
    fn a_database_made_anew_and_a_file_changed_nearly_everywhere_are_copied_whole() {
        let mut changes = changed(&[0, 1, 2, 3, 4, 5, 6, 7, 8], None);
        assert_eq!(changes.in_file(RELATION, 0, SEGMENT, 10), Changed::Whole);
        assert!(matches!(changes.in_file(RELATION, 0, SEGMENT, 11), Changed::Blocks(blocks) if blocks.len() == 9));
        changes.database(1663, 5);
        assert_eq!(changes.in_file(RELATION, 0, SEGMENT, 11), Changed::Whole);
        assert_eq!(changes.in_file(RelationKey { number: 9, ..RELATION }, 0, SEGMENT, 11), Changed::Whole);
        assert_eq!(changes.in_file(RelationKey { database: 6, ..RELATION }, 0, SEGMENT, 0), Changed::Whole);
    }

    #[test]
    fn stretches_add_up() {
        let mut all = changed(&[1, 2], Some(90));
        all.merge(changed(&[2, 5], Some(80)));
        all.merge(changed(&[7], None));
        assert_eq!(all, changed(&[1, 2, 5, 7], Some(80)));
        let mut minimal = BlockChanges::default();
        minimal.refuse("wal_level");
        all.merge(minimal);
        assert_eq!((all.unusable(), all.count()), (Some("wal_level"), 4));
    }

    fn summary() -> BlockSummary {
        let mut changes = changed(&[1, 2, 3, 100_000, u32::MAX - 1], Some(12));
        changes.block(RelationKey { number: 1, ..RELATION }, 0);
        changes.database(1663, 4);
        let (system, timeline) = (SystemId(u64::MAX), Timeline(3));
        let (start, previous) = (Lsn(80), Lsn(48));
        let tail = RecordTail { start, previous, magic: 0xD110, total: 900, got: 8, crc: 5, kept: vec![7; 8] };
        BlockSummary { system, timeline, from: Lsn(40), proven: Lsn(80), to: Lsn(1 << 40), changes, tail: Some(tail) }
    }

    #[test]
    fn a_summary_reads_back_and_no_flipped_bit_gets_through() {
        let bytes = summary().to_bytes();
        assert_eq!(BlockSummary::parse(&bytes), Ok(summary()));
        let ended = BlockSummary { tail: None, ..summary() };
        assert_eq!(BlockSummary::parse(&ended.to_bytes()), Ok(ended));
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(BlockSummary::parse(&flipped).is_err(), "byte {at}");
            assert!(BlockSummary::parse(&bytes[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn stretches_join_where_nothing_can_lie_between_them() {
        let joins = |from, proven, to| BlockSummary { from: Lsn(from), ..summary() }.joins(Lsn(proven), Lsn(to));
        assert!(joins(80, 80, 80) && joins(40, 80, 120), "read again from before");
        assert!(joins(120, 80, 120), "both say where the record between them ends");
        assert!(!joins(100, 80, 120) && !joins(160, 80, 120), "they do not agree");
    }

    #[test]
    fn the_stored_form_is_that_of_its_first_release() {
        let golden = "44424147424c4b32 ffffffffffffffff 03000000 2800000000000000 5000000000000000 0000000000010000";
        let golden: String = golden.split(' ').collect();
        let head: String = summary().to_bytes()[..44].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(head, golden);
    }
}
