//! Adds up the rows of every table while an archive streams by: the content sums of the manifest.
//!
//! A row is a line of COPY text without its line end; COPY escapes line ends inside values, so a line is a row and only
//! a line that is exactly `\.` ends the table. Rows cut over several pieces go through a running digest and are never
//! held; only of a table whose keys are summed as well are the key's own fields of such a row kept.

use std::collections::BTreeMap;

use memchr::memchr;

use super::{ArchiveError, Event};
use crate::model::buckets::KeySums;
use crate::model::copy_text::key_of;
use crate::model::digest::{Digest, Hasher, TableSum};
use crate::model::table::QualifiedTable;

const END_MARK: &[u8; 2] = b"\\.";

/// Longest key of a cut row. PostgreSQL indexes no key of more than a third of a page, as stored (compressed, it may be);
/// printed and escaped it is a few times that.
const LONGEST_KEY: usize = 16 << 20;

/// Which keys of a table are to be summed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyPlan {
    /// Places of the key's columns among those that COPY lists, in the key's order.
    pub positions: Vec<usize>,
    /// Into how many buckets.
    pub buckets: u32,
}

/// The sums of the tables seen so far.
#[derive(Debug, Default)]
pub struct RowSums {
    tables: BTreeMap<QualifiedTable, TableSum>,
    plans: BTreeMap<QualifiedTable, KeyPlan>,
    keys: BTreeMap<QualifiedTable, KeySums>,
    rows: u64,
    current: Option<Current>,
}

/// What the rows of every table, and the keys of those asked for, add up to.
pub type Sums = (BTreeMap<QualifiedTable, TableSum>, BTreeMap<QualifiedTable, KeySums>);

/// The table being read.
#[derive(Debug)]
struct Current {
    table: QualifiedTable,
    sum: TableSum,
    partial: Partial,
    keys: Option<Keys>,
    ended: bool,
}

/// The keys of the table being read.
#[derive(Debug)]
struct Keys {
    plan: KeyPlan,
    sums: KeySums,
    /// The beginning of a cut row.
    begun: Option<Begun>,
    scratch: Vec<u8>,
}

/// The beginning of a cut row: its fields up to the last of its key, those that are not of the key left empty.
#[derive(Debug, Default)]
struct Begun {
    row: Vec<u8>,
    /// The field that the next byte belongs to.
    field: usize,
}

/// The beginning of a row whose end has not come yet.
#[derive(Debug, Default)]
struct Partial {
    hasher: Hasher,
    length: u64,
    first: [u8; 2],
}

impl RowSums {
    /// Sums, besides the rows, the keys of the tables that `plans` names.
    pub fn with_keys(plans: BTreeMap<QualifiedTable, KeyPlan>) -> Self {
        Self { plans, ..Self::default() }
    }

    /// Takes what [`super::ArchiveReader::next`] answered.
    pub fn take(&mut self, event: Event<'_>) -> Result<(), ArchiveError> {
        match event {
            Event::TableBegin(begun) => {
                let (table, sum, partial) = (begun.table, TableSum::default(), Partial::default());
                let keys = self.plans.get(&table).map(Keys::new);
                self.current = Some(Current { table, sum, partial, keys, ended: false });
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
    pub fn finish(self) -> Sums {
        (self.tables, self.keys)
    }

    fn end_table(&mut self) -> Result<(), ArchiveError> {
        let current = self.current.take().ok_or(ArchiveError::Corrupt("a table ends that did not begin"))?;
        if !current.ended {
            return Err(ArchiveError::Corrupt("the rows of a table have no end mark"));
        }
        self.rows += current.sum.rows;
        if let Some(keys) = current.keys {
            if keys.sums.keys() != current.sum.rows {
                return Err(ArchiveError::Corrupt("rows of a table have no key"));
            }
            self.keys.insert(current.table.clone(), keys.sums);
        }
        self.tables.entry(current.table).or_default().merge(&current.sum);
        Ok(())
    }
}

impl Current {
    fn text(&mut self, mut bytes: &[u8]) -> Result<(), ArchiveError> {
        while !self.ended {
            let Some(end) = memchr(b'\n', bytes) else {
                self.partial.extend(bytes);
                return self.keys.as_mut().map_or(Ok(()), |keys| keys.begin(bytes));
            };
            self.line(&bytes[..end])?;
            bytes = &bytes[end + 1..];
        }
        match bytes.iter().all(|byte| *byte == b'\n') {
            true => Ok(()),
            false => Err(ArchiveError::Corrupt("text follows the end mark of a table's rows")),
        }
    }

    /// Takes the rest of a line, its end not included.
    fn line(&mut self, rest: &[u8]) -> Result<(), ArchiveError> {
        if self.partial.length > 0 {
            self.partial.extend(rest);
            let Partial { hasher, length, first } = std::mem::take(&mut self.partial);
            if length == 2 && first == *END_MARK {
                self.ended = true;
                return Ok(());
            }
            self.sum.add_hashed_row(hasher, length);
        } else if rest == END_MARK {
            self.ended = true;
            return Ok(());
        } else {
            self.sum.add_row(rest);
        }
        self.keys.as_mut().map_or(Ok(()), |keys| keys.end(rest))
    }
}

impl Keys {
    fn new(plan: &KeyPlan) -> Self {
        Self { plan: plan.clone(), sums: KeySums::new(plan.buckets), begun: None, scratch: Vec::new() }
    }

    /// Keeps of a piece of a row that is cut what is of its key. Other fields may be of any length, before it too.
    fn begin(&mut self, bytes: &[u8]) -> Result<(), ArchiveError> {
        let Begun { row, field } = self.begun.get_or_insert_default();
        let last = self.plan.positions.iter().max().copied().unwrap_or_default();
        let mut rest = bytes;
        while *field <= last {
            let end = memchr(b'\t', rest);
            let value = &rest[..end.unwrap_or(rest.len())];
            if self.plan.positions.contains(field) {
                if row.len() + value.len() > LONGEST_KEY {
                    return Err(ArchiveError::Corrupt("a row's key is longer than any key can be"));
                }
                row.extend_from_slice(value);
            }
            let Some(end) = end else { break };
            row.push(b'\t');
            *field += 1;
            rest = &rest[end + 1..];
        }
        Ok(())
    }

    /// Adds the key of the row that ends with `rest`.
    fn end(&mut self, rest: &[u8]) -> Result<(), ArchiveError> {
        if self.begun.is_some() {
            self.begin(rest)?;
        }
        let begun = self.begun.take();
        let row = begun.as_ref().map_or(rest, |begun| &begun.row);
        let key = key_of(row, &self.plan.positions, &mut self.scratch);
        self.sums.add(&Digest::of(key.ok_or(ArchiveError::Corrupt("a row has fewer columns than its table"))?));
        Ok(())
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
