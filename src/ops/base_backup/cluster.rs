//! What must be true of the cluster before its base backup begins.
//!
//! The log must be archived, or the backup could never be complete; and the data directory we can read must be the
//! server's own, whatever the configuration says.

use std::path::{Path, PathBuf};

use crate::host::durable;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::{Lsn, SystemId};
use crate::model::side::Side;
use crate::ops::base_backup::manifest::label;
use crate::ops::base_backup::reading::PageCheck;
use crate::postgres::control::{ControlFile, DataDirectory, DataDirectoryError};
use crate::postgres::page::PAGE_BYTES;
use crate::postgres::{BackupSession, BaseFacts, FileTree, Stopped};

/// Largest `PG_VERSION`, in bytes.
const VERSION_LIMIT: u64 = 64;

/// A cluster that can be backed up.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) facts: BaseFacts,
    /// Absent where the data directory is not here.
    tree: Option<FileTree>,
}

impl Cluster {
    /// Looks at the server and its data directory: that at `configured`, or else where the server says, if that is here.
    pub(super) fn look(facts: BaseFacts, configured: Option<&Path>, source: Side) -> Result<Self, Failure> {
        require_side(&facts, source)?;
        require_archiving(&facts)?;
        let is_here = |told: &PathBuf| durable::read_bounded(&told.join("PG_VERSION"), VERSION_LIMIT).is_ok();
        let root = configured.map(Path::to_owned).or_else(|| facts.data_directory().filter(is_here));
        let Some(root) = root else { return Ok(Self { facts, tree: None }) };
        let control = read_control(&root)?.0;
        let is_other = facts.server.system_identifier.is_some_and(|server| server != control.system_identifier);
        if is_other && configured.is_some() {
            let message = format!(
                "use the data directory {}: it is that of the system {}, not of this server",
                root.display(),
                control.system_identifier
            );
            return Err(Failure::new(FailureKind::RefusedForSafety, message)
                .hint("Set postgres.data_directory to that of the server that [postgres] names."));
        }
        let tree = (!is_other).then(|| FileTree::new(&root, facts.server.major()));
        Ok(Self { facts, tree })
    }

    /// The same with a data directory only if the server behind `session` itself writes into it. Whoever has the same
    /// system identifier need not: a standby, or the primary of before a failover, whose files the log would break.
    /// One that was `configured` is refused then.
    pub(super) async fn with_own(self, session: &BackupSession, configured: bool) -> Result<Self, Failure> {
        let Some(tree) = &self.tree else { return Ok(self) };
        if session.writes_into(tree.root()).await? {
            return Ok(self);
        }
        if !configured {
            return Ok(Self { tree: None, ..self });
        }
        let root = tree.root().display();
        let message = format!("use the data directory {root}: the server that [postgres] names does not write into it");
        Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
            "It may be that of a standby, or of the primary before a failover. Set postgres.data_directory, or \
             [postgres], so that both are of one server.",
        ))
    }

    /// Its data directory; errors where it is not here.
    pub(super) fn tree(&self) -> Result<&FileTree, Failure> {
        self.tree.as_ref().ok_or_else(|| Failure::new(FailureKind::Failed, "read the data directory: it is not here"))
    }

    /// Whether the data directory is not here.
    pub(super) fn is_remote(&self) -> bool {
        self.tree.is_none()
    }

    /// Errors where a standby, from whose files the backup was taken, does not follow the timeline that it began on any
    /// more: no one history of the log leads through such a backup. To be asked as soon as the backup has `stopped`:
    /// whatever becomes of the standby later is nothing to it.
    pub(super) fn require_timeline(&self, stopped: &Stopped) -> Result<(), Failure> {
        let Some(tree) = self.tree.as_ref().filter(|_| self.facts.server.in_recovery) else { return Ok(()) };
        let begun = label(stopped)?.timeline;
        let now = read_control(tree.root())?.0.recovery_timeline;
        if now == begun {
            return Ok(());
        }
        let message = format!("end the base backup: the standby went from timeline {} to {} meanwhile", begun.0, now.0);
        Err(Failure::new(FailureKind::Failed, message).hint("There was a failover. Run the job again."))
    }

    /// The control file as it is now, whole.
    pub(super) fn control(&self) -> Result<Vec<u8>, Failure> {
        Ok(read_control(self.tree()?.root())?.1)
    }

    /// Errors unless `bytes`, which came through pg_basebackup, are a whole control file of this very cluster: not every
    /// minor release of the server looks at its checksum, and it came over another connection than ours.
    pub(super) fn require_own_control(&self, bytes: &[u8]) -> Result<(), Failure> {
        let failed = |what: String| Failure::new(FailureKind::Failed, format!("end the base backup: {what}"));
        let Some(control) = ControlFile::parse(bytes) else {
            let what = "pg_basebackup gave no whole control file: the server was writing it".to_owned();
            return Err(failed(what).hint("Run the job again."));
        };
        let is_other = self.system().is_some_and(|ours| ours != control.system_identifier);
        if !is_other && self.facts.number("wal_segment_size") == Some(control.segment_size.bytes()) {
            return Ok(());
        }
        let what =
            format!("pg_basebackup read the system {}, not the server of the session", control.system_identifier);
        Err(failed(what).hint(
            "Two connections to the address in [postgres] led to two clusters: is it a balancer's, or a name that moved \
             meanwhile?",
        ))
    }

    /// Whether pages have checksums that we understand.
    pub(super) fn verifies_pages(&self) -> bool {
        self.facts.text("data_checksums") == "on" && self.facts.number("block_size") == Some(PAGE_BYTES as u64)
    }

    /// The cluster's identifier.
    pub(super) fn system(&self) -> Option<SystemId> {
        self.facts.server.system_identifier
    }

    /// Its data directory, as its own files describe it.
    pub(super) fn directory(&self) -> Result<DataDirectory, Failure> {
        DataDirectory::read(self.tree()?.root())
            .map_err(|error| Failure::new(FailureKind::Failed, "read the data directory").because(error))
    }

    /// Pages to a segment of a relation.
    pub(super) fn segment_pages(&self) -> Option<u32> {
        u32::try_from(self.facts.number("segment_size")?).ok()
    }

    /// How pages of a backup begun at `start` are verified.
    pub(super) fn page_check(&self, start: Lsn) -> Option<PageCheck> {
        let segment_pages = self.segment_pages()?;
        self.verifies_pages().then_some(PageCheck { start, segment_pages })
    }
}

fn require_side(facts: &BaseFacts, source: Side) -> Result<(), Failure> {
    let side = Side::of(facts.server.in_recovery);
    if side == source {
        return Ok(());
    }
    let message = format!("make a base backup: it is to be taken from {source}, and this server is {side}");
    Err(Failure::new(FailureKind::RefusedForSafety, message)
        .hint("`source` of the job in the plan says where it is taken from."))
}

/// What a standby's primary does is not seen from here: the log is waited for in the repository.
fn require_archiving(facts: &BaseFacts) -> Result<(), Failure> {
    let mode = facts.text("archive_mode");
    let archives = mode == "always" || mode == "on" && !facts.server.in_recovery;
    if archives || facts.server.in_recovery {
        return Ok(());
    }
    let message = format!("make a base backup: the server does not archive its log (archive_mode is {mode})");
    Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
        "A copy without the log can never be started. Set archive_mode = on and \
         archive_command = 'dbagent wal push \"%p\"', and restart the server.",
    ))
}

/// The control file and what it says.
fn read_control(root: &Path) -> Result<(ControlFile, Vec<u8>), Failure> {
    ControlFile::of(root).map_err(|error| {
        let (kind, hint) = match &error {
            DataDirectoryError::File { .. } => (
                FailureKind::Failed,
                "The agent must run where the data directory is, as a user who may read it (initdb -g lets a group).",
            ),
            DataDirectoryError::Malformed { .. } => {
                (FailureKind::Integrity, "Look at the server's log; pg_controldata shows the file.")
            }
        };
        Failure::new(kind, "read the control file").because(error).hint(hint)
    })
}
