//! All relations, on several sessions at once, the largest first.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Mutex;

use crate::model::event::Event;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::ops::increment::parent::Parent;
use crate::ops::increment::relation::{Found, RelationReading};
use crate::ops::increment::writer::{Relations, Writer};
use crate::postgres::changes::SnapshotReader;
use crate::postgres::{Connection, Coordinator, CoveredTable};

/// How often progress is told and looked at.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Reads every relation with rows of its own.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) coordinator: &'a Coordinator,
    pub(super) parent: &'a Parent,
    pub(super) setting: &'a Setting,
    /// Sessions at once.
    pub(super) sessions: usize,
    /// Longest time without a row.
    pub(super) no_progress: Duration,
}

impl Reading<'_> {
    /// Reads everything, and ends the archive.
    pub(super) async fn run(&self, writer: Writer) -> Result<Relations, Failure> {
        let rows = AtomicU64::new(0);
        let work = self.setting.unless_stopped("read the tables", self.read(&writer, &rows));
        let relations = self.watched(&rows, work).await?;
        writer.end().await?;
        Ok(relations)
    }

    async fn read(&self, writer: &Writer, rows: &AtomicU64) -> Result<Relations, Failure> {
        let mut leaves: Vec<&CoveredTable> =
            self.coordinator.tables().iter().filter(|covered| !covered.is_partitioned).collect();
        leaves.sort_by_key(|covered| std::cmp::Reverse(covered.own_bytes));
        let sessions = self.sessions.clamp(1, leaves.len().max(1));
        let queue = Arc::new(Mutex::new(leaves.into_iter()));
        let lanes = stream::iter(0..sessions).map(|_| self.lane(queue.clone(), writer, rows));
        let found: Vec<Vec<(u32, Found)>> = lanes.buffer_unordered(sessions).try_collect().await?;
        Ok(found.into_iter().flatten().collect())
    }

    /// One session: takes the next relation until none is left.
    async fn lane<'b>(
        &self,
        queue: Arc<Mutex<impl Iterator<Item = &'b CoveredTable>>>,
        writer: &Writer,
        rows: &AtomicU64,
    ) -> Result<Vec<(u32, Found)>, Failure> {
        let reader = SnapshotReader::begin(self.connection, self.coordinator, Some(self.parent.horizon)).await?;
        let mut found = Vec::new();
        loop {
            let next = queue.lock().await.next();
            let Some(covered) = next else { break };
            let relation = RelationReading { covered, parent: self.parent, reader: &reader, writer, rows };
            found.push((covered.oid, relation.run().await?));
        }
        reader.end().await?;
        Ok(found)
    }

    /// Tells how far `work` is, and ends it when no row has come for too long.
    async fn watched<T>(&self, rows: &AtomicU64, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let clock = &self.setting.clock;
        let (mut seen, mut since) = (0, clock.monotonic());
        let mut ticks = tokio::time::interval(TELL_EVERY);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = ticks.tick() => {
                    let now = rows.load(Ordering::Relaxed);
                    self.setting.events.tell(Event::Progress { bytes: 0, expected_bytes: None, rows: now });
                    if now != seen {
                        (seen, since) = (now, clock.monotonic());
                    } else if clock.monotonic() - since > self.no_progress {
                        let message = format!("read the tables: no progress for {:?}", self.no_progress);
                        return Err(Failure::new(FailureKind::Failed, message)
                            .hint("Look for a repository or a server that hangs; nothing was committed."));
                    }
                }
            }
        }
    }
}
