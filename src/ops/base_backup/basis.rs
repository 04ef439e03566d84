//! What a base backup copies of each file: all of it, or the pages that changed since its parent.
//!
//! Pages are left out only on proof: the log from the parent's start to ours was read without a gap, on a timeline that
//! the parent is part of, and nothing happened that the log does not tell. Otherwise the backup is a full one and says
//! why. Main forks of relations only; everything else is always copied whole.

use std::sync::Arc;

use crate::host::durable;
use crate::model::base::{BackupLabel, BaseRecord};
use crate::model::blocks::{BlockChanges, Changed};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, Timeline};
use crate::model::outcome::{Finding, Severity};
use crate::ops::base_backup::Work;
use crate::ops::base_backup::cluster::Cluster;
use crate::ops::base_backup::parent::Parent;
use crate::postgres::control::{ControlFile, DataDirectory};
use crate::postgres::file_tree::Entry;
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::relation_file::Fork;
use crate::steps::blocks::{BlockStore, history_in};

/// Largest label, in bytes.
const LABEL_LIMIT: u64 = 1 << 20;
/// What a label says that pg_rewind left (PostgreSQL, `bin/pg_rewind/pg_rewind.c`, `createBackupLabel`).
const REWOUND: &str = "BACKUP METHOD: pg_rewind";

/// What a backup builds upon.
#[derive(Clone, Debug)]
pub(super) enum Basis {
    /// Nothing; with the reason where something was asked for.
    Full(Option<String>),
    /// A parent, and what changed since.
    Changes {
        /// The parent.
        parent: Box<Parent>,
        /// What changed since its start.
        changes: Arc<BlockChanges>,
        /// The timeline on which that was found.
        timeline: Timeline,
    },
}

impl Basis {
    /// What is being done, for people.
    pub(super) fn step(&self) -> String {
        match self {
            Self::Full(_) => "copying the data directory".to_owned(),
            Self::Changes { parent, .. } => format!("copying what changed since {}", parent.name),
        }
    }

    /// What stands before the size of the cluster.
    pub(super) fn prefix(&self) -> String {
        match self {
            Self::Full(_) => String::new(),
            Self::Changes { parent, .. } => format!("what changed since {} of ", parent.name),
        }
    }

    /// The parent.
    pub(super) fn parent(&self) -> Option<&Parent> {
        match self {
            Self::Full(_) => None,
            Self::Changes { parent, .. } => Some(parent),
        }
    }

    /// That it became a full one although less was asked for.
    pub(super) fn finding(&self) -> Option<Finding> {
        let Self::Full(Some(reason)) = self else { return None };
        let message = format!("a full base backup was made instead of an incremental one: {reason}");
        let finding = Finding::new(Severity::Info, "full-instead-of-incremental", message);
        Some(finding.remedy("nothing is to be done: the next one builds upon it"))
    }

    /// Errors when the backup ended on another timeline than the one its changes were found on.
    pub(super) fn require_timeline(&self, ended: Timeline) -> Result<(), Failure> {
        match self {
            Self::Changes { timeline, .. } if *timeline != ended => {
                let message = format!("end the base backup: it began on timeline {} and is of {}", timeline.0, ended.0);
                Err(Failure::new(FailureKind::Failed, message).hint("Run the job again."))
            }
            _ => Ok(()),
        }
    }

    /// What decides for each file.
    pub(super) fn selector(&self, cluster: &Cluster) -> Selector {
        let segment_pages = cluster.segment_pages().unwrap_or_default();
        let changes = match self {
            Self::Changes { changes, .. } if segment_pages > 0 => Some(changes.clone()),
            _ => None,
        };
        Selector { changes, segment_pages }
    }
}

/// Decides what of a file is copied.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    changes: Option<Arc<BlockChanges>>,
    segment_pages: u32,
}

impl Selector {
    /// The pages of the file that are copied; all of it when absent.
    pub(super) fn pages(&self, entry: &Entry) -> Option<Vec<u32>> {
        let (changes, relation, size) = (self.changes.as_ref()?, entry.relation?, entry.size?);
        let whole_pages = size.is_multiple_of(PAGE_BYTES as u64) && size > 0;
        if relation.fork != Fork::Main || relation.is_temporary || !whole_pages {
            return None;
        }
        let pages = u32::try_from(size / PAGE_BYTES as u64).ok().filter(|pages| *pages <= self.segment_pages)?;
        match changes.in_file(relation.key(&entry.path)?, relation.segment, self.segment_pages, pages) {
            Changed::Whole => None,
            Changed::Blocks(blocks) => Some(blocks),
        }
    }
}

impl Work<'_> {
    /// What the backup that begins at `start` builds upon.
    pub(super) async fn basis(&self, start: Lsn) -> Result<Basis, Failure> {
        let asked = match &self.parent {
            None => return Ok(Basis::Full(None)),
            Some(asked) => asked.clone(),
        };
        let found = match asked {
            Ok(parent) => self.changes_since(parent, start).await?,
            Err(reason) => Err(reason),
        };
        Ok(found.unwrap_or_else(|reason| {
            self.setting.events.note(format!("a full base backup is made: {reason}"));
            Basis::Full(Some(reason))
        }))
    }

    async fn changes_since(&self, parent: Parent, start: Lsn) -> Result<Result<Basis, String>, Failure> {
        let Some(store) = self.doors.blocks.clone() else {
            return Ok(Err("it is not kept which blocks the log touches".to_owned()));
        };
        let control = self.cluster.control()?;
        let directory = self.cluster.directory()?;
        if let Err(reason) = self.cluster.same_form(&parent.base) {
            return Ok(Err(reason));
        }
        self.setting.events.step("reading which blocks changed");
        let reading = tokio::task::spawn_blocking(move || changes(&store, &directory, &control, parent, start));
        let read = async {
            reading.await.map_err(|error| Failure::new(FailureKind::Failed, "read block summaries").because(error))
        };
        self.setting.unless_stopped("read which blocks changed", read).await
    }

    /// Lets go of block summaries that nothing can build upon any more.
    pub(super) fn forget_old_blocks(&self, record: &BaseRecord, basis: &Basis) {
        let everywhere = self.doors.unopened.is_empty() && self.places.going().len() == self.doors.repositories.len();
        // A backup that a damaged page keeps from counting is no parent.
        if let (Some(store), Some(system), Some(size), true, true) =
            (&self.doors.blocks, self.cluster.system(), record.segment_size(), everywhere, record.damaged.is_none())
        {
            store.prune(system, basis.parent().map_or(record.start, Parent::start), size);
        }
    }
}

/// What changed in `directory` from the start of `parent` to `start`, or why that is not known.
fn changes(
    store: &BlockStore,
    directory: &DataDirectory,
    control: &[u8],
    parent: Parent,
    start: Lsn,
) -> Result<Basis, String> {
    let timeline = ControlFile::parse(control).map(|control| control.timeline).ok_or("the control file is torn")?;
    let history = history_in(directory, timeline)
        .ok_or_else(|| format!("pg_wal does not hold the history of timeline {}", timeline.0))?;
    let then = &parent.base;
    if !history.reaches(then.timeline, then.stop) {
        let (name, before) = (&parent.name, then.timeline.0);
        return Err(format!("timeline {} left timeline {before} before {name} was made", timeline.0));
    }
    if start < then.start {
        return Err(format!("the log ran backwards: {} then, {start} now", then.start));
    }
    if was_rewound_since(directory, then.start) {
        return Err(format!("pg_rewind changed the data directory since {}", parent.name));
    }
    let changes = store.changes(&history, (then.start, start), directory)?;
    Ok(Basis::Changes { parent: Box::new(parent), changes: Arc::new(changes), timeline })
}

/// Whether the label of the last recovery is one of pg_rewind from after `then`, or one that cannot be read.
fn was_rewound_since(directory: &DataDirectory, then: Lsn) -> bool {
    let Ok(bytes) = durable::read_bounded(&directory.path.join("backup_label.old"), LABEL_LIMIT) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    text.contains(REWOUND) && BackupLabel::parse(&text).is_none_or(|label| label.start >= then)
}

impl Cluster {
    /// Errors with the reason when a page of `then` may not be what it would be now without any change.
    fn same_form(&self, then: &BaseRecord) -> Result<(), String> {
        let facts = &self.facts;
        if then.major != facts.server.major() {
            return Err(format!("the server was PostgreSQL {} then and is {} now", then.major, facts.server.major()));
        }
        if facts.number("block_size") != Some(PAGE_BYTES as u64) {
            return Err("pages of this cluster do not have 8 KiB".to_owned());
        }
        let verified = then.pages_verified.then(|| "on".to_owned());
        let before = then.settings.get("data_checksums").cloned().or(verified);
        match before.as_deref() == Some(facts.text("data_checksums")) {
            true => Ok(()),
            false => Err("data checksums were switched on or off, or nobody knows".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::blocks::RelationKey;
    use crate::postgres::relation_file::RelationFile;

    fn entry(path: &str, size: u64) -> Entry {
        let relation = RelationFile::of_name(path.rsplit('/').next().unwrap());
        Entry { path: path.into(), size: Some(size), mode: 0o600, modified: 0, relation }
    }

    fn selector() -> Selector {
        let mut changes = BlockChanges::default();
        changes.block(RelationKey { tablespace: 1663, database: 5, number: 16384 }, 3);
        changes.block(RelationKey { tablespace: 1663, database: 5, number: 16384 }, 131_075);
        Selector { changes: Some(Arc::new(changes)), segment_pages: 131_072 }
    }

    #[test]
    fn pages_are_left_out_of_main_forks_only() {
        let pages = |path: &str, size: u64| selector().pages(&entry(path, size));
        let size = 100 * PAGE_BYTES as u64;
        assert_eq!(pages("base/5/16384", size), Some(vec![3]));
        assert_eq!(pages("base/5/16384.1", size), Some(vec![3]));
        assert_eq!(pages("base/5/16385", size), Some(vec![]), "nothing was changed");
        for whole in [
            "base/5/16384_vm",
            "base/5/16384_fsm",
            "base/5/16384_init",
            "base/5/pg_filenode.map",
            "pg_xact/0000",
            "global/pg_control",
            "PG_VERSION",
            "base/5/PG_VERSION",
            "pg_multixact/offsets/0000",
        ] {
            assert_eq!(pages(whole, size), None, "{whole}");
        }
        assert_eq!(pages("base/5/16385", size - 1), None, "torn at the end");
        assert_eq!(pages("base/5/16385", 0), None);
        assert_eq!(pages("base/5/16385", (131_073 * PAGE_BYTES) as u64), None, "longer than a segment");
        assert_eq!(Selector { changes: None, ..selector() }.pages(&entry("base/5/16385", size)), None, "a full one");
    }
}
