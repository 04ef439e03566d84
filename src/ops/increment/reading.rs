//! All relations, on several sessions at once, the largest first.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::model::event::Event;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::TableName;
use crate::ops::Setting;
use crate::ops::increment::parent::Parent;
use crate::ops::increment::relation::{Found, RelationReading};
use crate::ops::increment::untouched::Untouched;
use crate::ops::increment::writer::{Relations, Writer};
use crate::postgres::changes::SnapshotReader;
use crate::postgres::{Connection, Coordinator, CoveredTable};

/// How often progress is told and looked at.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Reads every relation with rows of its own.
pub(super) struct Reading<'a> {
    pub(super) connection: &'a Connection,
    pub(super) coordinator: &'a Coordinator,
    pub(super) parent: &'a Arc<Parent>,
    /// What need not be read.
    pub(super) untouched: &'a Arc<Untouched>,
    pub(super) setting: &'a Setting,
    /// Tables that need not be exact, with the column that says when a row changed.
    pub(super) changed_at: &'a BTreeMap<TableName, String>,
    /// Sessions at once.
    pub(super) sessions: usize,
    /// Longest time without a row.
    pub(super) no_progress: Duration,
}

impl Reading<'_> {
    /// Reads everything, and ends the archive.
    pub(super) async fn run(&self, writer: Writer) -> Result<Relations, Failure> {
        let rows = Arc::new(AtomicU64::new(0));
        let work = self.setting.unless_stopped("read the tables", self.read(&writer, &rows));
        let relations = self.watched(&rows, work).await?;
        writer.end().await?;
        Ok(relations)
    }

    /// Each session is a task of its own, so that several cores add up; they end with this call, however it ends.
    async fn read(&self, writer: &Writer, rows: &Arc<AtomicU64>) -> Result<Relations, Failure> {
        let leaves = self.coordinator.tables().iter().filter(|covered| !covered.is_partitioned);
        let mut leaves: Vec<CoveredTable> = leaves.cloned().collect();
        leaves.sort_by_key(|covered| covered.own_bytes);
        let sessions = self.sessions.clamp(1, leaves.len().max(1));
        let changed_at = Arc::new(self.changed_at());
        let queue = Arc::new(Mutex::new(leaves));
        let mut lanes = JoinSet::new();
        for _ in 0..sessions {
            let reader = SnapshotReader::begin(self.connection, self.coordinator, Some(self.parent.horizon)).await?;
            let (writer, rows) = (writer.clone(), rows.clone());
            let (parent, untouched) = (self.parent.clone(), self.untouched.clone());
            let lane = Lane { reader, parent, untouched, changed_at: changed_at.clone(), writer, rows };
            lanes.spawn(lane.run(queue.clone()));
        }
        let mut relations = Relations::new();
        while let Some(ended) = lanes.join_next().await {
            let found = ended.map_err(|error| {
                Failure::new(FailureKind::Failed, "read the tables: a session's task ended badly").because(error)
            })?;
            relations.extend(found?);
        }
        Ok(relations)
    }

    /// The column that says when a row changed, by relation: a partition follows the table it belongs to.
    fn changed_at(&self) -> BTreeMap<u32, String> {
        let tables = self.coordinator.tables();
        let above = |covered: &&CoveredTable| {
            let parent = covered.partition_of.as_ref()?;
            tables.iter().find(|other| other.table == *parent)
        };
        let column = |covered: &CoveredTable| {
            let line = std::iter::successors(Some(covered), |covered| above(covered));
            let named = |covered: &CoveredTable| {
                self.changed_at.iter().find(|(name, _)| name.may_mean(&covered.table)).map(|(_, column)| column.clone())
            };
            Some((covered.oid, line.into_iter().find_map(named)?))
        };
        tables.iter().filter_map(column).collect()
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

/// One session at work.
struct Lane {
    reader: SnapshotReader,
    parent: Arc<Parent>,
    untouched: Arc<Untouched>,
    changed_at: Arc<BTreeMap<u32, String>>,
    writer: Writer,
    rows: Arc<AtomicU64>,
}

impl Lane {
    /// Takes the next relation, the largest first, until none is left.
    async fn run(self, queue: Arc<Mutex<Vec<CoveredTable>>>) -> Result<Vec<(u32, Found)>, Failure> {
        let mut found = Vec::new();
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(covered) = next else { break };
            let Self { reader, parent, untouched, changed_at, writer, rows } = &self;
            let untouched = untouched.proof(covered.oid);
            let changed_at = changed_at.get(&covered.oid).map(String::as_str);
            let relation = RelationReading { covered: &covered, parent, reader, changed_at, writer, untouched, rows };
            found.push((covered.oid, relation.run().await?));
        }
        self.reader.end().await?;
        Ok(found)
    }
}
