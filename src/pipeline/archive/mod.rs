//! Reads pg_dump's custom format as it streams by, for content sums while dumping and for COPY while restoring.
//!
//! A pull parser: [`ArchiveReader::next`] takes from the front of the input it is given, in pieces of any size, and
//! answers with the next event; it does no I/O and holds no rows, so a row may be of any length. It must never panic or
//! allocate on the word of the archive. Layout: PostgreSQL, src/bin/pg_dump/pg_backup_custom.c. Compressed archives are
//! refused: the agent always dumps with `-Z0`.

mod contents;
mod rows;
mod scanner;

pub use rows::{KeyPlan, RowSums, Sums};

use contents::{Contents, DataEntry};
use scanner::{Scanner, take};

use crate::model::table::QualifiedTable;

const BLOCK_DATA: u8 = 1;
const BLOCK_LARGE_OBJECTS: u8 = 3;

/// Why an archive cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It does not begin like one.
    #[error("read the stream as a pg_dump archive of the custom format")]
    NotAnArchive,
    /// A format that was not written by clients 14 to 18.
    #[error("read an archive of format {major}.{minor}: formats 1.14 to 1.16 are known")]
    UnknownVersion {
        /// Major number.
        major: u8,
        /// Minor number.
        minor: u8,
    },
    /// pg_dump compressed it.
    #[error("read an archive that pg_dump compressed: dump with -Z0")]
    Compressed,
    /// Rows are not COPY text.
    #[error("read the rows of {0}: they are not COPY text; dump without --inserts")]
    NotCopyText(QualifiedTable),
    /// A name is not UTF-8.
    #[error("read the name {0:?}: it is not UTF-8; dump with --encoding=UTF8")]
    NotUtf8(String),
    /// It contradicts the format.
    #[error("read the archive: {0}")]
    Corrupt(&'static str),
    /// It ends before its end.
    #[error("read the archive to its end: {0}")]
    Truncated(&'static str),
}

/// A table with rows in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveTable {
    /// Schema and name.
    pub table: QualifiedTable,
    /// `COPY schema.name (columns) FROM stdin;` with its line end, as pg_dump wrote it. With
    /// `--load-via-partition-root` it names the root, not `table`.
    pub copy_statement: String,
}

/// What comes next in an archive.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A table's rows begin.
    TableBegin(ArchiveTable),
    /// Some of the table's COPY text, cut anywhere. Ends with pg_dump's end mark `\.` and blank lines.
    Rows(&'a [u8]),
    /// The table's rows are complete.
    TableEnd,
    /// A large object begins.
    LargeObjectBegin {
        /// Its oid.
        oid: u32,
    },
    /// Some of the large object's bytes.
    LargeObjectData(&'a [u8]),
    /// The large object is complete.
    LargeObjectEnd,
}

/// Where in the archive the reader is.
#[derive(Clone, Copy, Debug)]
enum Place {
    Contents,
    BlockType,
    BlockId { large_objects: bool },
    LargeObject,
    ChunkLength { large_object: bool },
    Chunk { large_object: bool, left: u64 },
}

/// What one step of the reader came to.
enum Step<'a> {
    /// The input ran out.
    Starved,
    /// The place changed; nothing to tell.
    On,
    Event(Event<'a>),
}

/// A streaming reader of one archive.
#[derive(Debug)]
pub struct ArchiveReader {
    place: Place,
    scanner: Scanner,
    contents: Contents,
}

impl Default for ArchiveReader {
    fn default() -> Self {
        Self { place: Place::Contents, scanner: Scanner::new(), contents: Contents::new() }
    }
}

impl ArchiveReader {
    /// The next event, its bytes taken from the front of `input`; nothing when `input` is used up and more is needed.
    /// After an error the reader is of no further use.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, ArchiveError> {
        loop {
            let step = match self.place {
                Place::Contents => self.contents(input)?,
                Place::BlockType => self.block_type(input)?,
                Place::BlockId { large_objects } => self.block_id(large_objects, input)?,
                Place::LargeObject => self.large_object(input)?,
                Place::ChunkLength { large_object } => self.chunk_length(large_object, input)?,
                Place::Chunk { large_object, left } => self.chunk(large_object, left, input),
            };
            match step {
                Step::Starved => return Ok(None),
                Step::On => {}
                Step::Event(event) => return Ok(Some(event)),
            }
        }
    }

    /// Whether it is between the beginning and the end of a table's rows.
    pub fn is_in_rows(&self) -> bool {
        matches!(self.place, Place::ChunkLength { large_object: false } | Place::Chunk { large_object: false, .. })
    }

    /// Bytes of an integer of this archive, its sign byte not counted; known once a table has begun.
    pub fn integer_bytes(&self) -> usize {
        self.scanner.integer_bytes()
    }

    /// Ends the archive. Errors unless it ended between two blocks and every table's rows came.
    pub fn finish(mut self) -> Result<(), ArchiveError> {
        match self.place {
            Place::BlockType if !self.scanner.is_amid() => {}
            Place::Contents => return Err(ArchiveError::Truncated("it ends in its table of contents")),
            _ => return Err(ArchiveError::Truncated("it ends in the middle of its data")),
        }
        if !self.contents.entries().is_empty() {
            return Err(ArchiveError::Truncated("the rows of a table are missing"));
        }
        Ok(())
    }

    fn contents<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        if !self.contents.read(&mut self.scanner, input)? {
            return Ok(Step::Starved);
        }
        self.place = Place::BlockType;
        Ok(Step::On)
    }

    fn block_type<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some([kind]) = self.scanner.bytes(input) else { return Ok(Step::Starved) };
        let large_objects = match kind {
            BLOCK_DATA => false,
            BLOCK_LARGE_OBJECTS => true,
            _ => return Err(ArchiveError::Corrupt("a block is of an unknown type")),
        };
        self.place = Place::BlockId { large_objects };
        Ok(Step::On)
    }

    fn block_id<'a>(&mut self, large_objects: bool, input: &mut &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(id) = self.scanner.integer(input)? else { return Ok(Step::Starved) };
        match (self.contents.entries().remove(&id), large_objects) {
            (Some(DataEntry::Table(table)), false) => {
                self.place = Place::ChunkLength { large_object: false };
                Ok(Step::Event(Event::TableBegin(table)))
            }
            (Some(DataEntry::LargeObjects), true) => {
                self.place = Place::LargeObject;
                Ok(Step::On)
            }
            _ => Err(ArchiveError::Corrupt("a block belongs to no entry of the table of contents")),
        }
    }

    /// An oid, or the zero that ends a block of large objects.
    fn large_object<'a>(&mut self, input: &mut &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(value) = self.scanner.integer(input)? else { return Ok(Step::Starved) };
        if value == 0 {
            self.place = Place::BlockType;
            return Ok(Step::On);
        }
        let oid = large_object_oid(value).ok_or(ArchiveError::Corrupt("a large object's oid is out of range"))?;
        self.place = Place::ChunkLength { large_object: true };
        Ok(Step::Event(Event::LargeObjectBegin { oid }))
    }

    fn chunk_length<'a>(&mut self, large_object: bool, input: &mut &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(length) = self.scanner.integer(input)? else { return Ok(Step::Starved) };
        let left = u64::try_from(length).map_err(|_| ArchiveError::Corrupt("a length is negative"))?;
        if left > 0 {
            self.place = Place::Chunk { large_object, left };
            return Ok(Step::On);
        }
        self.place = if large_object { Place::LargeObject } else { Place::BlockType };
        Ok(Step::Event(if large_object { Event::LargeObjectEnd } else { Event::TableEnd }))
    }

    fn chunk<'a>(&mut self, large_object: bool, left: u64, input: &mut &'a [u8]) -> Step<'a> {
        let bytes = take(input, left);
        let left = left - bytes.len() as u64;
        self.place = if left == 0 { Place::ChunkLength { large_object } } else { Place::Chunk { large_object, left } };
        match bytes {
            [] => Step::Starved,
            _ if large_object => Step::Event(Event::LargeObjectData(bytes)),
            _ => Step::Event(Event::Rows(bytes)),
        }
    }
}

/// pg_dump writes an oid above 2^31 through a signed integer, so it comes back negative.
fn large_object_oid(value: i64) -> Option<u32> {
    u32::try_from(value).ok().or_else(|| i32::try_from(value).ok().map(i32::cast_unsigned))
}
