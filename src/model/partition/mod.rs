//! Monthly partitions as values: what is there, what a rule wants, and what follows from both at an instant.
//!
//! Pure: no name is taken for a fact (a partition is where its bounds are, whatever it is called), no session's time zone
//! moves a bound, and the clock is an argument. Bounds are UTC; a `timestamp` without time zone is read as UTC.

mod bound;
mod gate;
mod month;
mod plan;

use crate::model::span::Span;
use crate::model::table::QualifiedTable;

pub use bound::Bound;
pub use gate::{Archive, Evidence, Reference, Refusal, Seal, gate};
pub use month::Month;
pub use plan::{Make, MakeReason, Plan, Retire, alarms, plan};

/// One partition, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Relation oid.
    pub oid: u32,
    /// The rows it takes.
    pub bound: Bound,
    /// Number of its rows, an estimate.
    pub rows: u64,
    /// Size with indexes and TOAST, in bytes.
    pub bytes: u64,
    /// A `DETACH CONCURRENTLY` was cut off: its rows are not seen through the parent any more, and it can only be finished.
    pub detach_pending: bool,
}

/// One partitioned table, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Its partitions, by their lower bound; the default partition last.
    pub partitions: Vec<Partition>,
    /// Rows in the default partition, by the day (UTC) of their key.
    pub strays: Vec<(chrono::NaiveDate, u64)>,
    /// Rows in the default partition whose day cannot be told (infinite or beyond the calendar).
    pub dateless: u64,
}

impl Parent {
    /// The default partition.
    pub fn default_partition(&self) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.bound == Bound::Default)
    }

    /// Rows in the default partition.
    pub fn rows_in_default(&self) -> u64 {
        self.strays.iter().map(|(_, rows)| rows).sum::<u64>() + self.dateless
    }
}

/// What the plan wants of one partitioned table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The column of the range.
    pub key: String,
    /// How long a partition stays after its upper bound; for ever when absent.
    pub retention: Option<Span>,
    /// Months made ahead.
    pub premake: u32,
    /// Whether a partition goes only with a signed seal.
    pub seal: bool,
    /// Whether a partition goes only with a verified archive.
    pub archive: bool,
    /// Whether a detached partition stays as a table.
    pub keep_detached: bool,
}
