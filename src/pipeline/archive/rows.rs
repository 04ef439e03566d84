//! Adds up the rows of every table while an archive streams by: the content sums of the manifest.
//!
//! A row is a line of COPY text without its line end; COPY escapes line ends inside values, so a line is a row and only
//! a line that is exactly `\.` ends the table. Rows cut over several pieces go through a running digest and are never
//! held.

use std::collections::BTreeMap;

use memchr::memchr;

use super::{ArchiveError, Event};
use crate::model::digest::{Hasher, TableSum};
use crate::model::table::QualifiedTable;

const END_MARK: &[u8; 2] = b"\\.";

/// The sums of the tables seen so far.
#[derive(Debug, Default)]
pub struct RowSums {
    tables: BTreeMap<QualifiedTable, TableSum>,
    rows: u64,
    current: Option<Current>,
}

/// The table being read.
#[derive(Debug)]
struct Current {
    table: QualifiedTable,
    sum: TableSum,
    partial: Partial,
    ended: bool,
}

/// The beginning of a row whose end has not come yet.
#[derive(Debug, Default)]
struct Partial {
    hasher: Hasher,
    length: u64,
    first: [u8; 2],
}

impl RowSums {
    /// Takes what [`super::ArchiveReader::next`] answered.
    pub fn take(&mut self, event: Event<'_>) -> Result<(), ArchiveError> {
        match event {
            Event::TableBegin(begun) => {
                let (table, sum, partial) = (begun.table, TableSum::default(), Partial::default());
                self.current = Some(Current { table, sum, partial, ended: false });
                Ok(())
            }
            Event::Rows(bytes) => match &mut self.current {
                Some(current) => current.text(bytes),
                None => Err(ArchiveError::Corrupt("rows belong to no table")),
            },
            Event::TableEnd => self.end_table(),
            Event::LargeObjectBegin { .. } | Event::LargeObjectData(_) | Event::LargeObjectEnd => Ok(()),
        }
    }

    /// Rows counted over all tables, the present one included.
    pub fn rows(&self) -> u64 {
        self.rows + self.current.as_ref().map_or(0, |current| current.sum.rows)
    }

    /// The sums by table.
    pub fn finish(self) -> BTreeMap<QualifiedTable, TableSum> {
        self.tables
    }

    fn end_table(&mut self) -> Result<(), ArchiveError> {
        let current = self.current.take().ok_or(ArchiveError::Corrupt("a table ends that did not begin"))?;
        if !current.ended {
            return Err(ArchiveError::Corrupt("the rows of a table have no end mark"));
        }
        self.rows += current.sum.rows;
        self.tables.entry(current.table).or_default().merge(&current.sum);
        Ok(())
    }
}

impl Current {
    fn text(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !self.ended {
            let Some(end) = memchr(b'\n', bytes) else {
                self.partial.extend(bytes);
                return Ok(());
            };
            self.line(&bytes[..end]);
            bytes = &bytes[end + 1..];
        }
        match bytes.iter().all(|byte| *byte == b'\n') {
            true => Ok(()),
            false => Err(ArchiveError::Corrupt("text follows the end mark of a table's rows")),
        }
    }

    /// Takes the rest of a line, its end not included.
    fn line(&mut self, rest: &[u8]) {
        if self.partial.length > 0 {
            self.partial.extend(rest);
            let Partial { hasher, length, first } = std::mem::take(&mut self.partial);
            match length == 2 && first == *END_MARK {
                true => self.ended = true,
                false => self.sum.add_hashed_row(hasher, length),
            }
        } else if rest == END_MARK {
            self.ended = true;
        } else {
            self.sum.add_row(rest);
        }
    }
}

impl Partial {
    fn extend(&mut self, bytes: &[u8]) {
        let known = usize::try_from(self.length).unwrap_or(usize::MAX);
        for (slot, byte) in self.first.iter_mut().skip(known).zip(bytes) {
            *slot = *byte;
        }
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
    }
}
