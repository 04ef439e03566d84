//! Reads an archive's header and table of contents, and keeps of it what belongs to table data.
//!
//! The layout is that of `ReadHead`, `ReadToc` (pg_backup_archiver.c) and `_ReadExtraToc` (pg_backup_custom.c), format
//! 1.14 (clients 12 to 15), 1.15 (16) and 1.16 (17, 18). Everything else, definitions included, is passed over without
//! being held: the contents of a database with many functions take no memory.

use std::collections::HashMap;

use super::scanner::{Keep, Scanner};
use super::{ArchiveError, ArchiveTable};
use crate::model::table::QualifiedTable;

/// Longest name kept, in bytes; PostgreSQL's own limit is 63 unless it was built otherwise.
const NAME_LIMIT: u64 = 4 << 10;
/// Longest COPY statement kept: 1,600 columns with the longest names fit.
const STATEMENT_LIMIT: u64 = 1 << 20;
const CUSTOM_FORMAT: u8 = 1;

/// One field of the header or of an entry.
#[derive(Clone, Copy, Debug)]
enum Field {
    Preamble,
    Compression,
    Count,
    DumpId,
    HasData,
    Name,
    Kind,
    CopyStatement,
    Schema,
    RelationKind,
    Dependencies,
    Offset,
    OtherInteger,
    OtherText,
}

const HEADER: &[Field] = &[
    Field::Preamble,
    Field::Compression,
    Field::OtherInteger, // seconds, minutes, hours, day, month, year, daylight saving
    Field::OtherInteger,
    Field::OtherInteger,
    Field::OtherInteger,
    Field::OtherInteger,
    Field::OtherInteger,
    Field::OtherInteger,
    Field::OtherText, // database
    Field::OtherText, // server version
    Field::OtherText, // pg_dump version
    Field::Count,
];

const ENTRY: &[Field] = &[
    Field::DumpId,
    Field::HasData,
    Field::OtherText, // catalog oid
    Field::OtherText, // oid
    Field::Name,
    Field::Kind,
    Field::OtherInteger, // section
    Field::OtherText,    // definition
    Field::OtherText,    // drop statement
    Field::CopyStatement,
    Field::Schema,
    Field::OtherText, // tablespace
    Field::OtherText, // table access method
    Field::RelationKind,
    Field::OtherText, // owner
    Field::OtherText, // with oids
    Field::Dependencies,
    Field::Offset,
];

/// What a block of data belongs to.
#[derive(Debug)]
pub(super) enum DataEntry {
    Table(ArchiveTable),
    LargeObjects,
}

/// The entry being read.
#[derive(Debug, Default)]
struct Draft {
    dump_id: i64,
    has_data: bool,
    name: Option<Vec<u8>>,
    kind: Option<Vec<u8>>,
    schema: Option<Vec<u8>>,
    copy_statement: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Contents {
    fields: &'static [Field],
    at: usize,
    entries_left: i64,
    minor: u8,
    draft: Draft,
    entries: HashMap<i64, DataEntry>,
}

impl Contents {
    pub(super) fn new() -> Self {
        let entries = HashMap::new();
        Self { fields: HEADER, at: 0, entries_left: 0, minor: 0, draft: Draft::default(), entries }
    }

    /// The entries with data, by dump id; taken out as their blocks come.
    pub(super) fn entries(&mut self) -> &mut HashMap<i64, DataEntry> {
        &mut self.entries
    }

    /// Reads on; true when the last entry has been read.
    pub(super) fn read(&mut self, scanner: &mut Scanner, input: &mut &[u8]) -> Result<bool, ArchiveError> {
        loop {
            if let Some(field) = self.fields.get(self.at) {
                if self.field(*field, scanner, input)?.is_none() {
                    return Ok(false);
                }
                self.at += 1;
                continue;
            }
            if self.fields.len() == ENTRY.len() {
                self.end_entry()?;
            }
            if self.entries_left == 0 {
                return Ok(true);
            }
            self.entries_left -= 1;
            (self.fields, self.at) = (ENTRY, 0);
        }
    }

    /// Reads one field; `None` when the input ended in it.
    fn field(&mut self, field: Field, scanner: &mut Scanner, input: &mut &[u8]) -> Result<Option<()>, ArchiveError> {
        match field {
            Field::Preamble => match scanner.bytes::<11>(input) {
                Some(preamble) => self.preamble(preamble, scanner).map(Some),
                None => Ok(None),
            },
            Field::Compression => self.compression(scanner, input),
            Field::Dependencies => dependencies(scanner, input),
            Field::Offset => Ok(scanner.offset(input)),
            Field::RelationKind if self.minor < 16 => Ok(Some(())),
            Field::Count | Field::DumpId | Field::HasData | Field::OtherInteger | Field::RelationKind => {
                let value = scanner.integer(input)?;
                Ok(value.map(|value| self.set_integer(field, value)))
            }
            Field::Name | Field::Kind | Field::Schema | Field::CopyStatement | Field::OtherText => {
                let text = scanner.text(input, self.keep(field))?;
                Ok(text.map(|text| self.set_text(field, text)))
            }
        }
    }

    /// `PGDMP`, version, sizes, format.
    fn preamble(&mut self, preamble: [u8; 11], scanner: &mut Scanner) -> Result<(), ArchiveError> {
        let [b'P', b'G', b'D', b'M', b'P', major, minor, _, integer, offset, format] = preamble else {
            return Err(ArchiveError::NotAnArchive);
        };
        if format != CUSTOM_FORMAT {
            return Err(ArchiveError::NotAnArchive);
        }
        if major != 1 || !(14..=16).contains(&minor) {
            return Err(ArchiveError::UnknownVersion { major, minor });
        }
        self.minor = minor;
        scanner.set_sizes(integer, offset)
    }

    /// A level before 1.15, an algorithm since.
    fn compression(&mut self, scanner: &mut Scanner, input: &mut &[u8]) -> Result<Option<()>, ArchiveError> {
        let value = match self.minor {
            ..15 => scanner.integer(input)?,
            _ => scanner.bytes::<1>(input).map(|[algorithm]| i64::from(algorithm)),
        };
        match value {
            Some(0) => Ok(Some(())),
            Some(_) => Err(ArchiveError::Compressed),
            None => Ok(None),
        }
    }

    /// Only entries with data are worth keeping.
    fn keep(&self, field: Field) -> Keep {
        match field {
            Field::CopyStatement if self.draft.has_data => Keep::UpTo(STATEMENT_LIMIT),
            Field::Name | Field::Kind | Field::Schema if self.draft.has_data => Keep::UpTo(NAME_LIMIT),
            _ => Keep::Nothing,
        }
    }

    fn set_integer(&mut self, field: Field, value: i64) {
        match field {
            Field::Count => self.entries_left = value.max(0),
            Field::DumpId => self.draft = Draft { dump_id: value, ..Draft::default() },
            Field::HasData => self.draft.has_data = value != 0,
            _ => {}
        }
    }

    fn set_text(&mut self, field: Field, text: Option<Vec<u8>>) {
        match field {
            Field::Name => self.draft.name = text,
            Field::Kind => self.draft.kind = text,
            Field::Schema => self.draft.schema = text,
            Field::CopyStatement => self.draft.copy_statement = text,
            _ => {}
        }
    }

    fn end_entry(&mut self) -> Result<(), ArchiveError> {
        let draft = std::mem::take(&mut self.draft);
        if !draft.has_data {
            return Ok(());
        }
        let entry = match draft.kind.as_deref() {
            Some(b"BLOBS") => DataEntry::LargeObjects,
            Some(b"TABLE DATA") => DataEntry::Table(table(draft.schema, draft.name, draft.copy_statement)?),
            _ => return Err(ArchiveError::Corrupt("an entry that cannot have data claims some")),
        };
        match self.entries.insert(draft.dump_id, entry) {
            None => Ok(()),
            Some(_) => Err(ArchiveError::Corrupt("two entries have one number")),
        }
    }
}

/// Passes over a list of texts that ends with an absent one.
fn dependencies(scanner: &mut Scanner, input: &mut &[u8]) -> Result<Option<()>, ArchiveError> {
    loop {
        match scanner.text(input, Keep::Nothing)? {
            Some(Some(_)) => {}
            Some(None) => return Ok(Some(())),
            None => return Ok(None),
        }
    }
}

fn table(
    schema: Option<Vec<u8>>,
    name: Option<Vec<u8>>,
    copy_statement: Option<Vec<u8>>,
) -> Result<ArchiveTable, ArchiveError> {
    let table = QualifiedTable::new(utf8(schema)?, utf8(name)?);
    let copy_statement = utf8(copy_statement)?;
    if copy_statement.is_empty() {
        return Err(ArchiveError::NotCopyText(table));
    }
    Ok(ArchiveTable { table, copy_statement })
}

fn utf8(text: Option<Vec<u8>>) -> Result<String, ArchiveError> {
    String::from_utf8(text.unwrap_or_default())
        .map_err(|error| ArchiveError::NotUtf8(String::from_utf8_lossy(error.as_bytes()).into_owned()))
}
