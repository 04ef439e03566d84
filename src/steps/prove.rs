//! The equality proof: what tables hold now against what their manifest says they held, row sums and counts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::task::JoinSet;

use crate::model::buckets::KeySums;
use crate::model::digest::TableSum;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::TableRecord;
use crate::model::table::QualifiedTable;
use crate::postgres::copy::{self, KeyTally};
use crate::postgres::{Session, tables};

/// One table's comparison.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Proof {
    /// The table.
    pub table: QualifiedTable,
    /// What the manifest says.
    pub expected: TableSum,
    /// What the table holds.
    pub found: TableSum,
    /// Whether its keys are those of the manifest; absent where rows alone were compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keys_equal: Option<bool>,
}

impl Proof {
    /// Whether they are equal.
    pub fn holds(&self) -> bool {
        self.expected == self.found && self.keys_equal != Some(false)
    }
}

/// Blocks of one piece of work: large enough to be worth a statement, small enough that all sessions end together.
const PIECE_BLOCKS: i64 = 16 << 10;

/// A stretch of a table that one session sums up; the whole of it when there are no blocks.
struct Piece {
    record: Arc<TableRecord>,
    blocks: Option<Range<i64>>,
}

/// Compares every table of `records` that has rows of its own, on all `sessions` at once; a large table is cut into
/// pieces. Nobody else may write to them meanwhile.
pub async fn prove(sessions: Vec<Session>, records: &[TableRecord], events: &Events) -> Result<Vec<Proof>, Failure> {
    let wanted: Vec<(&TableRecord, TableSum)> =
        records.iter().filter_map(|record| record.content.map(|content| (record, content))).collect();
    events.step(format!("proving {} tables equal", wanted.len()));
    let Some(session) = sessions.first() else {
        return Err(Failure::new(FailureKind::Failed, "prove tables equal: there is no session to read them with"));
    };
    let mut pieces = Vec::new();
    for (record, _) in &wanted {
        let blocks = tables::blocks(session.client(), &record.table).await?;
        let record = Arc::new((*record).clone());
        pieces.extend(stretches(blocks).into_iter().map(|blocks| Piece { record: record.clone(), blocks }));
    }
    let mut found = sum_up(sessions, pieces).await?;
    let proof = |(record, expected): (&TableRecord, TableSum)| {
        let (found, keys) = found.remove(&record.table).unwrap_or_default();
        // A table without rows has no stretch with keys; then its keys are those of no row.
        let keys = keys.or_else(|| tally(record)).zip(record.key.as_ref());
        let keys_equal = keys.map(|(tally, key)| tally.sums.digest() == key.digest);
        Proof { table: record.table.clone(), expected, found, keys_equal }
    };
    Ok(wanted.into_iter().map(proof).collect())
}

/// Cuts a table of so many blocks; nothing stands for the whole of it. The last stretch has no end: whatever the size
/// was, every row is in one of them.
fn stretches(blocks: i64) -> Vec<Option<Range<i64>>> {
    if blocks < 2 * PIECE_BLOCKS {
        return vec![None];
    }
    let count = blocks / PIECE_BLOCKS;
    let end = |piece: i64| if piece + 1 == count { i64::MAX } else { (piece + 1) * PIECE_BLOCKS };
    (0..count).map(|piece| Some(piece * PIECE_BLOCKS..end(piece))).collect()
}

/// What was found of a table: its rows, and its keys where an increment's keys are to be proven.
type Found = (TableSum, Option<KeyTally>);

/// What an increment left unchanged was never read whole when it was made: its rows are proven by account, so its keys
/// are proven as well, by the sums that the increment has of all of them.
fn tally(record: &TableRecord) -> Option<KeyTally> {
    let key = record.key.as_ref().filter(|_| record.change.is_some())?;
    let place = |column: &String| record.columns.iter().position(|other| other == column);
    Some(KeyTally { positions: key.columns.iter().filter_map(place).collect(), sums: KeySums::new(key.buckets) })
}

/// Every session takes the next piece until none is left. Each is a task of its own: rows come in faster than one core
/// digests them.
async fn sum_up(sessions: Vec<Session>, pieces: Vec<Piece>) -> Result<BTreeMap<QualifiedTable, Found>, Failure> {
    let waiting = Arc::new(Mutex::new(pieces.into_iter()));
    let mut works = JoinSet::new();
    for session in sessions {
        works.spawn(sum_pieces(session, waiting.clone()));
    }
    let mut all = BTreeMap::new();
    while let Some(ended) = works.join_next().await {
        let found = ended.map_err(|error| {
            Failure::new(FailureKind::Failed, "prove tables equal: a session's task ended badly").because(error)
        })?;
        for (table, found) in found? {
            add(&mut all, table, found);
        }
    }
    Ok(all)
}

type Waiting = Arc<Mutex<std::vec::IntoIter<Piece>>>;

async fn sum_pieces(session: Session, waiting: Waiting) -> Result<BTreeMap<QualifiedTable, Found>, Failure> {
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let mut found = BTreeMap::new();
    while let Some(Piece { record, blocks }) = next() {
        let mut keys = tally(&record);
        let (table, columns) = (&record.table, &record.columns);
        let sum = copy::sum_blocks(&session, table, columns, blocks, keys.as_mut()).await?;
        add(&mut found, table.clone(), (sum, keys));
    }
    Ok(found)
}

fn add(all: &mut BTreeMap<QualifiedTable, Found>, table: QualifiedTable, (sum, keys): Found) {
    let found = all.entry(table).or_default();
    found.0.merge(&sum);
    match (&mut found.1, keys) {
        (Some(all), Some(more)) => all.sums.merge(&more.sums),
        (all @ None, more) => *all = more,
        (Some(_), None) => {}
    }
}

/// Errors with the tables that differ, if any do.
pub fn require_equal(proofs: &[Proof]) -> Result<(), Failure> {
    let different: Vec<String> = proofs.iter().filter(|proof| !proof.holds()).map(describe).collect();
    if different.is_empty() {
        return Ok(());
    }
    let message = format!("prove the restored rows equal to the dump: {}", different.join("; "));
    Err(Failure::new(FailureKind::Integrity, message).hint(
        "Do not use what was restored. Triggers or rules of the target may have changed rows; otherwise report this.",
    ))
}

fn describe(proof: &Proof) -> String {
    let Proof { table, expected, found, keys_equal } = proof;
    if *keys_equal == Some(false) {
        return format!("{table} has other keys than the source had");
    }
    match expected.rows == found.rows {
        true => format!("{table} has the {} rows it should have, with other contents", found.rows),
        false => format!("{table} has {} rows where the dump has {}", found.rows, expected.rows),
    }
}

#[cfg(test)]
mod tests {
    use super::{PIECE_BLOCKS, stretches};

    #[test]
    fn stretches_cover_every_block_once_and_small_tables_stay_whole() {
        for blocks in [0, 1, PIECE_BLOCKS, 2 * PIECE_BLOCKS - 1] {
            assert_eq!(stretches(blocks), [None], "{blocks}");
        }
        for blocks in [2 * PIECE_BLOCKS, 5 * PIECE_BLOCKS + 7, 1000 * PIECE_BLOCKS - 1] {
            let mut next = 0;
            for stretch in stretches(blocks) {
                let stretch = stretch.unwrap();
                assert!(stretch.start == next && stretch.end - stretch.start >= PIECE_BLOCKS);
                next = stretch.end;
            }
            assert_eq!(next, i64::MAX);
        }
    }
}
