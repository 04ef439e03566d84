//! The equality proof: what tables hold now against what their manifest says they held, row sums and counts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use futures_util::future::try_join_all;

use crate::model::digest::TableSum;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::TableRecord;
use crate::model::table::QualifiedTable;
use crate::postgres::{Session, copy, tables};

/// One table's comparison.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Proof {
    /// The table.
    pub table: QualifiedTable,
    /// What the manifest says.
    pub expected: TableSum,
    /// What the table holds.
    pub found: TableSum,
}

impl Proof {
    /// Whether they are equal.
    pub fn holds(&self) -> bool {
        self.expected == self.found
    }
}

/// Blocks of one piece of work: large enough to be worth a statement, small enough that all sessions end together.
const PIECE_BLOCKS: i64 = 16 << 10;

/// A stretch of a table that one session sums up; the whole of it when there are no blocks.
struct Piece<'a> {
    record: &'a TableRecord,
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
        pieces.extend(stretches(blocks).into_iter().map(|blocks| Piece { record, blocks }));
    }
    let mut found = sum_up(&sessions, pieces).await?;
    let proof = |(record, expected): (&TableRecord, TableSum)| Proof {
        table: record.table.clone(),
        expected,
        found: found.remove(&record.table).unwrap_or_default(),
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

/// Every session takes the next piece until none is left.
async fn sum_up(sessions: &[Session], pieces: Vec<Piece<'_>>) -> Result<BTreeMap<QualifiedTable, TableSum>, Failure> {
    let waiting = Mutex::new(pieces.into_iter());
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).next();
    let works = sessions.iter().map(|session| async {
        let mut sums: BTreeMap<QualifiedTable, TableSum> = BTreeMap::new();
        while let Some(Piece { record, blocks }) = next() {
            let sum = match blocks {
                None => copy::sum_table(session, &record.table, &record.columns).await?,
                Some(blocks) => copy::sum_blocks(session, &record.table, &record.columns, blocks).await?,
            };
            sums.entry(record.table.clone()).or_default().merge(&sum);
        }
        Ok::<_, Failure>(sums)
    });
    let mut all: BTreeMap<QualifiedTable, TableSum> = BTreeMap::new();
    for (table, sum) in try_join_all(works).await?.into_iter().flatten() {
        all.entry(table).or_default().merge(&sum);
    }
    Ok(all)
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
    let Proof { table, expected, found } = proof;
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
