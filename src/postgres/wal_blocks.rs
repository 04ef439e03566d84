//! What a record of the log changes: its block references, and the few records that change files in other ways.
//!
//! The form of a reference is that of `access/xlogrecord.h` (`XLogRecordBlockHeader` and what follows it), read as
//! `DecodeXLogRecord` of `access/transam/xlogreader.c` reads it, and is the same from 14 to 18 but for the flags of page
//! images: 14 has one bit for "compressed" (0x02), 15 and later have one for each method (0x04, 0x08, 0x10). The others
//! are those that `postmaster/walsummarizer.c` of 17 knows: storage made or cut off (`catalog/storage_xlog.h`), databases
//! made and dropped (`commands/dbcommands_xlog.h`: before 15 a copy is 0x00 and a drop 0x10; since then a copy by files
//! is 0x00, one by the log 0x10, a drop 0x20), and a change to `wal_level` minimal (`xl_parameter_change`). Dropped
//! relations need nothing: whatever gets their numbers later is made by a record of its own. Any other record that says
//! that it changes files in a way of its own (`XLR_SPECIAL_REL_UPDATE`), of an extension's resource manager, makes the
//! stretch unusable.

use crate::model::blocks::{BlockChanges, RelationKey};
use crate::postgres::wal_records::{FIXED_BYTES, Record};

/// Number of the main fork.
pub const MAIN_FORK: u8 = 0;

const MANAGER_XLOG: u8 = 0;
const MANAGER_TRANSACTION: u8 = 1;
const MANAGER_STORAGE: u8 = 2;
const MANAGER_DATABASE: u8 = 4;

const KIND: u8 = 0xF0;
const CHANGES_FILES: u8 = 0x01;
const PARAMETER_CHANGE: u8 = 0x60;
const STORAGE_CREATE: u8 = 0x10;
const STORAGE_TRUNCATE: u8 = 0x20;
const TRUNCATES_MAIN: u32 = 0x0001;
const WAL_LEVEL_AT: usize = 20;
const WAL_LEVEL_MINIMAL: u32 = 0;

const LARGEST_ID: u8 = 32;
const ID_SHORT_DATA: u8 = 255;
const ID_LONG_DATA: u8 = 254;
const ID_ORIGIN: u8 = 253;
const ID_TOP_TRANSACTION: u8 = 252;
const FORK: u8 = 0x0F;
const HAS_IMAGE: u8 = 0x10;
const SAME_RELATION: u8 = 0x80;
const IMAGE_HAS_HOLE: u8 = 0x01;

/// One block that a record refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockReference {
    /// The relation.
    pub relation: RelationKey,
    /// The fork.
    pub fork: u8,
    /// The block of the fork.
    pub block: u32,
}

/// Why a record cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unclear {
    /// What is at hand of it ends too early.
    Short,
    /// It is not made as records are.
    Malformed,
}

/// A record, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents<'a> {
    /// The blocks it refers to.
    pub references: Vec<BlockReference>,
    /// Its own data, whole or as far as it is at hand.
    pub data: &'a [u8],
}

/// Takes `record` apart. Never panics, whatever its bytes are.
pub fn contents<'a>(record: &Record<'a>) -> Result<Contents<'a>, Unclear> {
    let compressed = if record.major < 15 { 0x02 } else { 0x04 | 0x08 | 0x10 };
    let total = (record.length as usize).checked_sub(FIXED_BYTES).ok_or(Unclear::Malformed)?;
    let mut fields = Fields { bytes: record.body, read: 0 };
    let (mut references, mut relation) = (Vec::new(), None);
    let (mut of_blocks, mut own) = (0_usize, 0_usize);
    while total.checked_sub(fields.read).ok_or(Unclear::Malformed)? > of_blocks + own {
        match fields.byte()? {
            ID_SHORT_DATA => own += usize::from(fields.byte()?),
            ID_LONG_DATA => own += fields.word()? as usize,
            ID_ORIGIN => fields.skip(2)?,
            ID_TOP_TRANSACTION => fields.skip(4)?,
            id if id <= LARGEST_ID => {
                let (reference, length) = fields.reference(&mut relation, compressed)?;
                of_blocks += length;
                references.push(reference);
            }
            _ => return Err(Unclear::Malformed),
        }
    }
    match total - fields.read == of_blocks + own {
        true => {
            let data = record.body.get(fields.read + of_blocks..).unwrap_or_default();
            Ok(Contents { references, data: &data[..data.len().min(own)] })
        }
        false => Err(Unclear::Malformed),
    }
}

/// Adds what `record` changes to `changes`.
pub fn note(record: &Record<'_>, changes: &mut BlockChanges) -> Result<(), Unclear> {
    let contents = contents(record)?;
    let mut data = Fields { bytes: contents.data, read: 0 };
    match (record.manager, record.info & KIND) {
        (MANAGER_XLOG, PARAMETER_CHANGE) => {
            data.skip(WAL_LEVEL_AT)?;
            if data.word()? == WAL_LEVEL_MINIMAL {
                changes.refuse(format!("wal_level was set to minimal at {}", record.start));
            }
        }
        (MANAGER_STORAGE, STORAGE_CREATE) => {
            let relation = data.relation()?;
            if data.word()? == u32::from(MAIN_FORK) {
                changes.limit(relation, 0);
            }
        }
        (MANAGER_STORAGE, STORAGE_TRUNCATE) => {
            let (limit, relation) = (data.word()?, data.relation()?);
            if data.word()? & TRUNCATES_MAIN != 0 {
                changes.limit(relation, limit);
            }
        }
        (MANAGER_DATABASE, kind) => database(kind, record.major, &mut data, changes)?,
        (MANAGER_XLOG | MANAGER_TRANSACTION | MANAGER_STORAGE, _) => {}
        (manager, _) if record.info & CHANGES_FILES != 0 => {
            changes.refuse(format!(
                "the record at {} of resource manager {manager} changes files by itself",
                record.start
            ));
        }
        _ => {}
    }
    let main = contents.references.iter().filter(|reference| reference.fork == MAIN_FORK);
    main.for_each(|reference| changes.block(reference.relation, reference.block));
    Ok(())
}

fn database(kind: u8, major: u32, data: &mut Fields<'_>, changes: &mut BlockChanges) -> Result<(), Unclear> {
    let drop = if major < 15 { 0x10 } else { 0x20 };
    let database = data.word()?;
    // Both forms of making one begin alike: the database, then its tablespace.
    let tablespaces = match kind {
        kind if kind == drop => data.word()?,
        kind if kind < drop => 1,
        _ => return Err(Unclear::Malformed),
    };
    for _ in 0..tablespaces {
        changes.database(data.word()?, database);
    }
    Ok(())
}

/// What is left to read, in the machine's byte order.
struct Fields<'a> {
    bytes: &'a [u8],
    read: usize,
}

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Unclear> {
        let taken = self.bytes.get(self.read..).and_then(|rest| rest.first_chunk()).ok_or(Unclear::Short)?;
        self.read += N;
        Ok(*taken)
    }

    fn skip(&mut self, count: usize) -> Result<(), Unclear> {
        self.read += count;
        if self.read <= self.bytes.len() { Ok(()) } else { Err(Unclear::Short) }
    }

    fn byte(&mut self) -> Result<u8, Unclear> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn half(&mut self) -> Result<u16, Unclear> {
        self.take().map(u16::from_ne_bytes)
    }

    fn word(&mut self) -> Result<u32, Unclear> {
        self.take().map(u32::from_ne_bytes)
    }

    fn relation(&mut self) -> Result<RelationKey, Unclear> {
        Ok(RelationKey { tablespace: self.word()?, database: self.word()?, number: self.word()? })
    }

    /// A reference after its id, and the bytes of data and image that belong to it.
    fn reference(
        &mut self,
        relation: &mut Option<RelationKey>,
        compressed: u8,
    ) -> Result<(BlockReference, usize), Unclear> {
        let (flags, mut length) = (self.byte()?, usize::from(self.half()?));
        if flags & HAS_IMAGE != 0 {
            length += usize::from(self.half()?);
            self.skip(2)?;
            let image = self.byte()?;
            if image & compressed != 0 && image & IMAGE_HAS_HOLE != 0 {
                self.skip(2)?;
            }
        }
        if flags & SAME_RELATION == 0 {
            *relation = Some(self.relation()?);
        }
        let relation = relation.ok_or(Unclear::Malformed)?;
        Ok((BlockReference { relation, fork: flags & FORK, block: self.word()? }, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::blocks::Changed;
    use crate::model::lsn::Lsn;

    const RELATION: RelationKey = RelationKey { tablespace: 1663, database: 5, number: 16384 };

    fn record(major: u32, manager: u8, info: u8, body: &[u8]) -> Record<'_> {
        let length = (FIXED_BYTES + body.len()) as u32;
        Record { start: Lsn(40), end: Lsn(80), major, manager, info, length, body }
    }

    fn words(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    /// The record's own data behind its header.
    fn data(words_of: &[u32]) -> Vec<u8> {
        let data = words(words_of);
        [&[ID_SHORT_DATA, data.len() as u8], data.as_slice()].concat()
    }

    fn relation(fork_flags: u8, length: u16, image: &[u8], same: bool, block: u32) -> Vec<u8> {
        let mut bytes = vec![0, fork_flags];
        bytes.extend(length.to_ne_bytes());
        bytes.extend(image);
        if !same {
            bytes.extend(words(&[1663, 5, 16384]));
        }
        bytes.extend(block.to_ne_bytes());
        bytes
    }

    #[test]
    fn references_are_read_with_images_of_every_version() {
        let image = |info: u8| [&100_u16.to_ne_bytes()[..], &[9, 0, info]].concat();
        let hole = |info: u8| [image(info), vec![1, 1]].concat();
        // 14: 0x02 is "compressed" and 0x04 "apply"; 15: 0x02 is "apply" and 0x04 pglz.
        for (major, image) in
            [(14, image(0x01 | 0x04)), (14, hole(0x03)), (15, image(0x03)), (15, hole(0x05)), (18, hole(0x11))]
        {
            let mut body = relation(HAS_IMAGE, 3, &image, false, 7);
            body.extend(relation(SAME_RELATION | 2, 0, &[], true, 8));
            body.extend([ID_ORIGIN, 0, 0, ID_TOP_TRANSACTION, 0, 0, 0, 0, ID_SHORT_DATA, 2]);
            body.extend([0; 103]);
            body.extend([4, 5]);
            let contents = contents(&record(major, 10, 0, &body)).unwrap();
            let found: Vec<_> = contents.references.iter().map(|each| (each.relation, each.fork, each.block)).collect();
            assert_eq!(found, [(RELATION, 0, 7), (RELATION, 2, 8)], "{major} {image:?}");
            assert_eq!(contents.data, [4, 5]);
        }
    }

    #[test]
    fn storage_that_is_made_or_cut_off_sets_a_limit() {
        let mut changes = BlockChanges::default();
        note(&record(15, 2, 0x21, &data(&[50, 1663, 5, 16384, 7])), &mut changes).unwrap();
        assert_eq!(changes.in_file(RELATION, 0, 131_072, 60), Changed::Blocks((50..60).collect()));
        note(&record(15, 2, 0x11, &data(&[1663, 5, 16384, 2])), &mut changes).unwrap();
        assert_ne!(changes.in_file(RELATION, 0, 131_072, 60), Changed::Whole, "another fork");
        note(&record(15, 2, 0x11, &data(&[1663, 5, 16384, 0])), &mut changes).unwrap();
        assert_eq!(changes.in_file(RELATION, 0, 131_072, 60), Changed::Whole);
    }

    #[test]
    fn databases_that_are_made_and_dropped_are_known_in_every_version() {
        for (major, info, made) in [
            (14, 0x01, vec![7, 1663, 1, 1663]),
            (15, 0x01, vec![7, 1663, 1, 1663]),
            (15, 0x11, vec![7, 1663]),
            (14, 0x11, vec![7, 1, 1663]),
            (18, 0x21, vec![7, 2, 99, 1663]),
        ] {
            let mut changes = BlockChanges::default();
            note(&record(major, 4, info, &data(&made)), &mut changes).unwrap();
            let key = RelationKey { database: 7, ..RELATION };
            assert_eq!(changes.in_file(key, 0, 131_072, 5), Changed::Whole, "{major} {info:x}");
            assert_eq!(changes.in_file(RELATION, 0, 131_072, 5), Changed::Blocks(vec![]));
        }
    }

    #[test]
    fn what_no_block_says_makes_the_stretch_unusable() {
        let unusable = |record: Record<'_>| {
            let mut changes = BlockChanges::default();
            note(&record, &mut changes).unwrap();
            changes.unusable().is_some()
        };
        let parameters = |level| data(&[100, 8, 10, 0, 64, level, 0]);
        assert!(unusable(record(15, 0, 0x60, &parameters(0))) && !unusable(record(15, 0, 0x60, &parameters(1))));
        assert!(unusable(record(15, 200, 0x01, &data(&[]))) && !unusable(record(15, 200, 0x10, &data(&[]))));
        assert!(!unusable(record(15, 1, 0x81, &data(&[1]))), "a commit that drops relations");
    }

    #[test]
    fn a_record_cut_short_is_told_from_one_that_is_wrong() {
        let body = data(&[50, 1663, 5, 16384, 7]);
        let whole = record(15, 2, 0x21, &body);
        for at in 0..body.len() {
            let cut = Record { body: &body[..at], ..whole };
            assert_eq!(note(&cut, &mut BlockChanges::default()), Err(Unclear::Short), "cut at {at}");
        }
        assert_eq!(contents(&record(15, 10, 0, &[40, 0, 0])).unwrap_err(), Unclear::Malformed);
        let without_relation = relation(SAME_RELATION, 0, &[], true, 1);
        assert_eq!(contents(&record(15, 10, 0, &without_relation)).unwrap_err(), Unclear::Malformed);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(proptest::num::u8::ANY, 0..300), manager: u8, info: u8, more: u32) {
            for major in [14, 15, 18] {
                let whole = record(major, manager, info, &body);
                let _ = note(&whole, &mut BlockChanges::default());
                let _ = note(&Record { length: more, ..whole }, &mut BlockChanges::default());
                let _ = note(&Record { manager: manager % 5, ..whole }, &mut BlockChanges::default());
            }
        }
    }
}
