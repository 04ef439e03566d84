//! The equality proof: what tables hold now against what their manifest says they held, row sums and counts.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::model::digest::TableSum;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::TableRecord;
use crate::model::table::QualifiedTable;
use crate::postgres::{Session, copy};

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

/// Compares every table of `records` that has rows of its own, on all `sessions` at once.
pub async fn prove(sessions: Vec<Session>, records: &[TableRecord], events: &Events) -> Result<Vec<Proof>, Failure> {
    events.step(format!("proving {} tables equal", records.iter().filter(|record| record.content.is_some()).count()));
    let at_once = sessions.len();
    let sessions: Arc<Vec<tokio::sync::Mutex<Session>>> = Arc::new(sessions.into_iter().map(Into::into).collect());
    let mut work: Vec<(&TableRecord, TableSum)> =
        records.iter().filter_map(|record| record.content.map(|content| (record, content))).collect();
    work.sort_by_key(|(_, content)| std::cmp::Reverse(content.bytes));
    stream::iter(work.into_iter().enumerate())
        .map(|(turn, (record, expected))| {
            let sessions = sessions.clone();
            async move {
                let session = free_session(&sessions, turn).await;
                let found = copy::sum_table(&session, &record.table, &record.columns).await?;
                Ok::<Proof, Failure>(Proof { table: record.table.clone(), expected, found })
            }
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await
}

/// One of the sessions that nobody uses; there are as many as pieces of work at once.
async fn free_session(sessions: &[tokio::sync::Mutex<Session>], turn: usize) -> tokio::sync::MutexGuard<'_, Session> {
    match sessions.iter().find_map(|session| session.try_lock().ok()) {
        Some(session) => session,
        None => sessions[turn % sessions.len()].lock().await,
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
    let Proof { table, expected, found } = proof;
    match expected.rows == found.rows {
        true => format!("{table} has the {} rows it should have, with other contents", found.rows),
        false => format!("{table} has {} rows where the dump has {}", found.rows, expected.rows),
    }
}
