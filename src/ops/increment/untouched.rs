//! Relations that nobody wrote to since the parent, on the log's word: they need no reading.
//!
//! Statistics prove nothing; block references in the log do (spec of increments, rule 5). The stretch has to begin before
//! every transaction that the parent had not seen, not where the parent was made, and to be on the disk up to the present
//! snapshot. Where anything about it is not known, everything is read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::model::blocks::BlockChanges;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::manifest::LogStretch;
use crate::ops::Setting;
use crate::ops::increment::parent::Parent;
use crate::postgres::control::DataDirectory;
use crate::postgres::{Coordinator, CoveredTable};
use crate::steps::blocks::{BlockStore, history_in};

/// Segments of the log that an increment reads itself, at most: to read a busy hour of it would take as long as the tables.
const MOST_UNREAD: usize = 4;

/// Where it is known which blocks the log touches.
#[derive(Clone, Debug)]
pub struct Log {
    /// The summaries of its segments.
    pub blocks: BlockStore,
    /// The server's data directory, on this machine.
    pub data_directory: PathBuf,
    /// Whether nobody else needs the summaries that an increment needs no more.
    pub prune: bool,
}

/// The relations that the log does not touch.
#[derive(Debug, Default)]
pub(super) struct Untouched {
    oids: BTreeSet<u32>,
    stretch: Option<LogStretch>,
}

impl Untouched {
    /// The stretch of the log that does not touch the relation; nothing where it does, or may.
    pub(super) fn proof(&self, oid: u32) -> Option<LogStretch> {
        self.stretch.filter(|_| self.oids.contains(&oid))
    }

    /// Asks the log. What it does not tell is no error: then everything is read.
    pub(super) async fn find(
        log: &Log,
        coordinator: &Coordinator,
        parent: &Parent,
        setting: &Setting,
    ) -> Result<Self, Failure> {
        let source = coordinator.source_record();
        let (Some(mark), Some(to), Some(timeline), Some(system), false) =
            (parent.log_from(), source.lsn, source.timeline, source.system_identifier, coordinator.is_on_standby())
        else {
            tracing::debug!("the chain does not say from where on the log tells what changed; every table is read");
            return Ok(Self::default());
        };
        let candidate = |covered: &&CoveredTable| {
            let recorded = parent.record(covered.oid).and_then(|record| record.relfilenode);
            covered.storage.is_some() && recorded == Some(covered.relfilenode)
        };
        let candidates: Vec<&CoveredTable> = coordinator.tables().iter().filter(candidate).collect();
        if candidates.is_empty() {
            return Ok(Self::default());
        }
        setting.events.step("reading which tables the log touches");
        if !coordinator.outlasts_a_crash() {
            tracing::debug!("the log may not be on the disk; every table is read");
            return Ok(Self::default());
        }
        let (log, stretch) = (log.clone(), LogStretch { from: mark.lsn, to });
        let reading = tokio::task::spawn_blocking(move || changes(&log, system, timeline, stretch));
        let changes =
            reading.await.map_err(|error| Failure::new(FailureKind::Failed, "read block summaries").because(error))?;
        match changes {
            Ok(changes) => {
                let still = candidates.into_iter().filter(|it| it.storage.is_some_and(|key| !changes.touches(key)));
                Ok(Self { oids: still.map(|covered| covered.oid).collect(), stretch: Some(stretch) })
            }
            Err(reason) => {
                tracing::debug!(reason, "the log does not tell what changed; every table is read");
                Ok(Self::default())
            }
        }
    }
}

/// What the log of the cluster `system` changes in `stretch`, or why that is not known.
fn changes(log: &Log, system: SystemId, timeline: Timeline, stretch: LogStretch) -> Result<BlockChanges, String> {
    let directory = DataDirectory::read(&log.data_directory).map_err(|error| error.to_string())?;
    if directory.system_identifier != system {
        return Err(format!("{} is the data directory of another cluster", log.data_directory.display()));
    }
    let history = history_in(&directory, timeline)
        .ok_or_else(|| format!("pg_wal does not hold the history of timeline {}", timeline.0))?;
    let stretch = (stretch.from, stretch.to);
    let lacking = log.blocks.lacking(&history, stretch, (system, directory.segment_size));
    if lacking > MOST_UNREAD {
        return Err(format!("{lacking} segments of the log were not read by `wal push` or `wal-sync`"));
    }
    log.blocks.changes(&history, stretch, &directory)
}

/// Lets go of summaries from before the log that the chain beginning with `root` can ever need.
pub(super) fn prune(log: &Log, root: Lsn) {
    if let (true, Ok(directory)) = (log.prune, DataDirectory::read(&log.data_directory)) {
        log.blocks.prune(directory.system_identifier, root, directory.segment_size);
    }
}
