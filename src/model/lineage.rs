//! What a chain of manifests makes of each relation: where its rows begin, and which increments change them.
//!
//! A relation is followed by its oid, whatever it was called meanwhile. Only relations of the last manifest matter: rows
//! of one that is gone, or detached, belong to no state restored from it. The last artifact that holds all rows of a
//! relation is where it begins.

use std::collections::BTreeSet;

use crate::model::digest::TableSum;
use crate::model::manifest::{ChangeRecord, Manifest, TableRecord, is_exact};
use crate::model::table::QualifiedTable;

/// One relation with rows of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    /// Relation oid, the same in every artifact.
    pub oid: u32,
    /// Its record in the last artifact.
    pub record: TableRecord,
    /// The place in the chain of the artifact that holds all its rows.
    pub origin: usize,
    /// What it is called there.
    pub origin_table: QualifiedTable,
    /// What its rows add up to there.
    pub origin_sum: TableSum,
    /// Whether every increment since then read all its rows.
    pub exact: bool,
    /// How many rows it has, as the last artifact that counted them says: one that is not exact does not.
    pub rows: u64,
}

/// A chain that does not say where a relation's rows are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("follow {table} through the chain: no artifact holds all its rows")]
pub struct BrokenLineage {
    /// The relation, as it is called last.
    pub table: QualifiedTable,
}

/// Every relation with rows in the last of `chain`, the full dump first.
pub fn lineages(chain: &[&Manifest]) -> Result<Vec<Lineage>, BrokenLineage> {
    let Some(last) = chain.last() else { return Ok(Vec::new()) };
    last.tables.iter().filter(|record| has_rows(record)).map(|record| lineage(chain, record)).collect()
}

/// The tables of which some increment was not exact; a partition is told as the table it belongs to.
pub fn inexact(lineages: &[Lineage]) -> Vec<QualifiedTable> {
    let told = |lineage: &Lineage| lineage.record.partition_of.clone().unwrap_or_else(|| lineage.record.table.clone());
    let tables: BTreeSet<_> = lineages.iter().filter(|lineage| !lineage.exact).map(told).collect();
    tables.into_iter().collect()
}

/// Whether `record` is of a relation with rows of its own, not of a partitioned table.
pub fn has_rows(record: &TableRecord) -> bool {
    record.content.is_some() || record.change.is_some()
}

/// How many rows the relation of `record` had, where its artifact counted them.
fn rows_counted(record: &TableRecord) -> Option<u64> {
    let known = || record.content.map(|content| content.rows).or_else(|| Some(record.change.as_ref()?.rows));
    is_exact(record).then(known).flatten()
}

fn lineage(chain: &[&Manifest], last: &TableRecord) -> Result<Lineage, BrokenLineage> {
    let (mut exact, mut counted) = (true, None);
    for (at, manifest) in chain.iter().enumerate().rev() {
        let Some(record) = manifest.tables.iter().find(|record| record.oid == last.oid) else { break };
        counted = counted.or_else(|| rows_counted(record));
        let all_rows = match &record.change {
            Some(ChangeRecord { whole: Some(_), stored, .. }) => Some(*stored),
            Some(_) => None,
            None => record.content,
        };
        if let Some(origin_sum) = all_rows {
            let origin_table = record.table.clone();
            let (record, rows) = (last.clone(), counted.unwrap_or(origin_sum.rows));
            return Ok(Lineage { oid: last.oid, record, origin: at, origin_table, origin_sum, exact, rows });
        }
        exact &= is_exact(record);
    }
    Err(BrokenLineage { table: last.table.clone() })
}
