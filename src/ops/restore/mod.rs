//! The verb `restore` from dumps: a whole database, or one table, whose rows may also come from a server that has the past.
//!
//! Every stored byte of the chosen copy is verified before anything of the target is touched, what is being restored
//! has a name that says so until it is proven equal, and the proof against the manifest always comes last.

mod assemble;
mod belongings;
mod coverage;
mod database;
mod form;
mod large_objects;
mod past;
mod properties;
mod rows;
mod source;
mod table;

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use crate::catalog::{Repository, Selector};
use crate::model::lineage::has_rows;
use crate::model::table::{QualifiedTable, TableName};
use crate::pipeline::openpgp::DecryptionKeys;
use crate::postgres::{ClientTools, Connection};
use crate::steps::prove::Proof;

pub use belongings::Unrestored;
pub use database::{DatabaseOptions, require_free_target, restore_database};
pub use past::Past;
pub use source::{Choice, choose};
pub use table::{TableMode, TableOptions, TablePlan, TableResult, require_possible, restore_past_table, restore_table};

/// Which backup to restore.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which one.
    pub selector: Selector,
    /// None of a state later than this.
    pub until: Option<DateTime<Utc>>,
    /// Of this database only.
    pub database: Option<String>,
    /// Only one that covers this table.
    pub table: Option<TableName>,
    /// Take manifests that no trusted key signed; a person typed that.
    pub accept_unsigned: bool,
    /// Only to see what would be done: nothing is written for it, no lease, and nothing archived is asked for.
    pub plan_only: bool,
}

/// What a restore works with.
#[derive(Clone, Debug)]
pub struct Doors {
    /// The server to restore into.
    pub connection: Connection,
    /// pg_restore and its kin.
    pub tools: ClientTools,
    /// Where to look, best first.
    pub repositories: Vec<Repository>,
    /// What decrypts; absent where nothing is encrypted.
    pub keys: Option<DecryptionKeys>,
    /// Where the schema archive (never rows) lies for as long as pg_restore reads it.
    pub scratch_directory: PathBuf,
    /// Connections that load, index and prove at once.
    pub jobs: usize,
}

/// What was restored, proven.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The database or table that now holds it.
    pub target: String,
    /// The proof, table by table.
    pub proofs: Vec<Proof>,
    /// Tables whose increments were not exact: they may hold rows that were gone, and lack late ones.
    pub inexact: Vec<QualifiedTable>,
    /// What of a table that was gone did not come back.
    pub unrestored: Unrestored,
    /// Seconds that each phase took, in order.
    pub phases: Vec<(&'static str, f64)>,
    /// Where rows of a chained audit log were brought back in place: how many places of its chain went, those after its last
    /// row.
    pub places_cut: Option<u64>,
}

impl Restored {
    /// Rows proven, over all tables.
    pub fn rows(&self) -> u64 {
        self.proofs.iter().map(|proof| proof.found.rows).sum()
    }
}

/// The records of `table`: itself, or every leaf below it when it is partitioned.
fn leaves<'a>(
    records: &'a [crate::model::manifest::TableRecord],
    table: &QualifiedTable,
) -> Vec<&'a crate::model::manifest::TableRecord> {
    let below = |record: &crate::model::manifest::TableRecord| {
        let mut at = record;
        loop {
            if at.table == *table {
                return true;
            }
            let parent = at.partition_of.as_ref();
            match parent.and_then(|parent| records.iter().find(|record| record.table == *parent)) {
                Some(parent) => at = parent,
                None => return false,
            }
        }
    };
    records.iter().filter(|record| has_rows(record) && below(record)).collect()
}
