//! Named points at which a fault test kills the process or makes a step fail; nothing at all in a release build.
//!
//! With the feature `failpoints`, `DBAGENT_FAILPOINT=name=kill|error|panic[:nth]` arms one point: at its nth arrival (the
//! first by default) the process dies as by `kill -9`, the step gets an error, or panics. Each firing is first written as a
//! line to the file that `DBAGENT_FAILPOINT_LOG` names, so that a test can prove that its fault fired.

use std::io;

use crate::model::failure::{Failure, FailureKind};

/// A step at which a fault can be injected. Closed: tests go through [`FailPoint::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailPoint {
    /// The snapshot of a dump is exported.
    DumpSnapshot,
    /// pg_dump is running.
    DumpSpawned,
    /// The first byte of a dump has come.
    DumpFirstByte,
    /// A dump is half-way.
    DumpMidStream,
    /// The last byte of a dump has come; nothing is committed.
    DumpStreamEnd,
    /// A part of an upload has been sent.
    DumpPartSent,
    /// An object is committed; the artifact is not.
    DumpObjectCommitted,
    /// The checksums are stored; the manifest is not.
    DumpChecksumsPut,
    /// A place in the catalog's order is claimed.
    CatalogClaimed,
    /// The manifest's signature is stored; the manifest is not.
    CatalogSignaturePut,
    /// The manifest is stored: the artifact exists.
    CatalogManifestPut,
    /// The run is recorded.
    CatalogRecorded,
    /// An artifact is marked as being deleted.
    ExpireTombstonePut,
    /// Its manifest is deleted; its objects are not.
    ExpireManifestDeleted,
    /// One of its objects is deleted.
    ExpireObjectDeleted,
    /// The record of a WAL file that goes is deleted; its bytes are not.
    ExpireWalRecordDeleted,
    /// A WAL file that goes is deleted.
    ExpireWalObjectDeleted,
    /// A base backup has begun on the server.
    BaseStarted,
    /// Some of a part has been read.
    PartMidStream,
    /// A part of a base backup is committed in every repository; the backup is not.
    BasePartCommitted,
    /// A base backup has ended on the server; its log is not known to be stored.
    BaseStopped,
    /// Everything of a base backup is stored but its manifest.
    BaseBeforeManifest,
    /// The copy's directory is marked; nothing is in it.
    RecoverMarked,
    /// Some of the copy's files are written.
    RecoverMidFile,
    /// A part of the copy is whole.
    RecoverPartDone,
    /// All files of the copy are there; its settings are not.
    RecoverBeforeSettings,
    /// The copy is ready but for its mark.
    RecoverBeforeUnmark,
    /// A copy for one piece of work has come to its target; nothing was read of it.
    RecoverAside,
    /// A restore is about to load rows.
    RestoreBeforeLoad,
    /// A restore has loaded some rows.
    RestoreMidLoad,
    /// A restore has put an increment onto the rows.
    RestoreMidIncrements,
    /// A restore has loaded all rows; indexes and constraints are not there.
    RestoreBeforePostData,
    /// A WAL file has been checked; nothing is stored.
    WalChecked,
    /// The bytes of a WAL file are stored; its record is not.
    WalObjectPut,
    /// The record of a WAL file is stored; nobody has been told.
    WalRecordPut,
    /// A fetched WAL file is whole beside its place.
    WalFetched,
    /// A partition is made.
    PartitionMade,
    /// A partition past its retention is archived; nothing is recorded.
    PartitionArchived,
    /// A seal is signed into one more repository.
    SealSigned,
    /// A seal is in every repository and recorded in the database; the partition is there.
    SealRecorded,
    /// Some places of a sealed partition that is gone are out of the side table.
    SealPruned,
    /// The archive is recorded in the database.
    PartitionRecorded,
    /// The partition is detached; it is still there.
    PartitionDetached,
    /// The partition is dropped.
    PartitionDropped,
    /// A table that is being converted is tracked; nothing is copied.
    ConvertBegun,
    /// A month of it is copied.
    ConvertMonthCopied,
    /// What was written meanwhile is applied.
    ConvertCaughtUp,
    /// The partitioned table has the name.
    ConvertSwapped,
    /// An alert lies in the spool; the database does not know it.
    AlertSpooled,
    /// An alert lies in the outbox; it is in the spool still, and was not sent.
    AlertKept,
    /// An alert was sent.
    AlertSent,
}

impl FailPoint {
    /// Every point, in the order of a run.
    pub const ALL: [Self; 51] = [
        Self::DumpSnapshot,
        Self::DumpSpawned,
        Self::DumpFirstByte,
        Self::DumpMidStream,
        Self::DumpStreamEnd,
        Self::DumpPartSent,
        Self::DumpObjectCommitted,
        Self::DumpChecksumsPut,
        Self::CatalogClaimed,
        Self::CatalogSignaturePut,
        Self::CatalogManifestPut,
        Self::CatalogRecorded,
        Self::ExpireTombstonePut,
        Self::ExpireManifestDeleted,
        Self::ExpireObjectDeleted,
        Self::ExpireWalRecordDeleted,
        Self::ExpireWalObjectDeleted,
        Self::BaseStarted,
        Self::PartMidStream,
        Self::BasePartCommitted,
        Self::BaseStopped,
        Self::BaseBeforeManifest,
        Self::RecoverMarked,
        Self::RecoverMidFile,
        Self::RecoverPartDone,
        Self::RecoverBeforeSettings,
        Self::RecoverBeforeUnmark,
        Self::RecoverAside,
        Self::RestoreBeforeLoad,
        Self::RestoreMidLoad,
        Self::RestoreMidIncrements,
        Self::RestoreBeforePostData,
        Self::WalChecked,
        Self::WalObjectPut,
        Self::WalRecordPut,
        Self::WalFetched,
        Self::PartitionMade,
        Self::PartitionArchived,
        Self::SealSigned,
        Self::SealRecorded,
        Self::SealPruned,
        Self::PartitionRecorded,
        Self::PartitionDetached,
        Self::PartitionDropped,
        Self::ConvertBegun,
        Self::ConvertMonthCopied,
        Self::ConvertCaughtUp,
        Self::ConvertSwapped,
        Self::AlertSpooled,
        Self::AlertKept,
        Self::AlertSent,
    ];

    /// The name it is armed by.
    pub fn name(self) -> &'static str {
        match self {
            Self::DumpSnapshot => "dump.snapshot",
            Self::DumpSpawned => "dump.spawned",
            Self::DumpFirstByte => "dump.first_byte",
            Self::DumpMidStream => "dump.mid_stream",
            Self::DumpStreamEnd => "dump.stream_end",
            Self::DumpPartSent => "dump.part_sent",
            Self::DumpObjectCommitted => "dump.object_committed",
            Self::DumpChecksumsPut => "dump.checksums_put",
            Self::CatalogClaimed => "catalog.claimed",
            Self::CatalogSignaturePut => "catalog.signature_put",
            Self::CatalogManifestPut => "catalog.manifest_put",
            Self::CatalogRecorded => "catalog.recorded",
            Self::ExpireTombstonePut => "expire.tombstone_put",
            Self::ExpireManifestDeleted => "expire.manifest_deleted",
            Self::ExpireObjectDeleted => "expire.object_deleted",
            Self::ExpireWalRecordDeleted => "expire.wal_record_deleted",
            Self::ExpireWalObjectDeleted => "expire.wal_object_deleted",
            Self::BaseStarted => "base.started",
            Self::PartMidStream => "part.mid_stream",
            Self::BasePartCommitted => "base.part_committed",
            Self::BaseStopped => "base.stopped",
            Self::BaseBeforeManifest => "base.before_manifest",
            Self::RecoverMarked => "recover.marked",
            Self::RecoverMidFile => "recover.mid_file",
            Self::RecoverPartDone => "recover.part_done",
            Self::RecoverBeforeSettings => "recover.before_settings",
            Self::RecoverBeforeUnmark => "recover.before_unmark",
            Self::RecoverAside => "aside.recovered",
            Self::RestoreBeforeLoad => "restore.before_load",
            Self::RestoreMidLoad => "restore.mid_load",
            Self::RestoreMidIncrements => "restore.mid_increments",
            Self::RestoreBeforePostData => "restore.before_post_data",
            Self::WalChecked => "wal.checked",
            Self::WalObjectPut => "wal.object_put",
            Self::WalRecordPut => "wal.record_put",
            Self::WalFetched => "wal.fetched",
            Self::PartitionMade => "partition.made",
            Self::PartitionArchived => "partition.archived",
            Self::SealSigned => "seal.signed",
            Self::SealRecorded => "seal.recorded",
            Self::SealPruned => "seal.pruned",
            Self::PartitionRecorded => "partition.recorded",
            Self::PartitionDetached => "partition.detached",
            Self::PartitionDropped => "partition.dropped",
            Self::ConvertBegun => "convert.begun",
            Self::ConvertMonthCopied => "convert.month_copied",
            Self::ConvertCaughtUp => "convert.caught_up",
            Self::ConvertSwapped => "convert.swapped",
            Self::AlertSpooled => "alert.spooled",
            Self::AlertKept => "alert.kept",
            Self::AlertSent => "alert.sent",
        }
    }
}

/// Says that the work has come to `point`. Errors only when a test armed it.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn reach(_point: FailPoint) -> io::Result<()> {
    Ok(())
}

/// Says that the work has come to `point`. Errors only when a test armed it.
#[cfg(feature = "failpoints")]
pub fn reach(point: FailPoint) -> io::Result<()> {
    armed::reach(point)
}

/// [`reach`] for a step whose errors are failures.
pub fn pass(point: FailPoint) -> Result<(), Failure> {
    reach(point).map_err(|error| Failure::new(FailureKind::Failed, "pass a fail point").because(error))
}

#[cfg(feature = "failpoints")]
mod armed {
    use std::fs::OpenOptions;
    use std::io::{self, Write as _};
    use std::path::PathBuf;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::{Signal, getpid, kill_process};

    use super::FailPoint;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(super) enum Action {
        Kill,
        Error,
        Panic,
    }

    /// What `DBAGENT_FAILPOINT` asks for.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Order {
        pub(super) point: FailPoint,
        pub(super) action: Action,
        pub(super) nth: u64,
    }

    static ORDER: OnceLock<Option<Result<Order, String>>> = OnceLock::new();
    static ARRIVALS: AtomicU64 = AtomicU64::new(0);

    #[expect(clippy::panic, reason = "a panic is what the test asks for")]
    pub(super) fn reach(point: FailPoint) -> io::Result<()> {
        let order = match ORDER.get_or_init(|| variable("DBAGENT_FAILPOINT").map(|text| parse(&text))) {
            None => return Ok(()),
            Some(Err(text)) => return Err(io::Error::other(format!("read DBAGENT_FAILPOINT={text}"))),
            Some(Ok(order)) => order,
        };
        if order.point != point || ARRIVALS.fetch_add(1, Ordering::SeqCst) + 1 != order.nth {
            return Ok(());
        }
        record(order)?;
        match order.action {
            Action::Kill => kill_process(getpid(), Signal::KILL)?,
            Action::Panic => panic!("at the fail point {}", point.name()),
            Action::Error => {}
        }
        Err(io::Error::other(format!("pass the fail point {}", point.name())))
    }

    /// Reads `name=kill|error|panic[:nth]`; gives the text back when it is something else.
    pub(super) fn parse(text: &str) -> Result<Order, String> {
        let read = || {
            let (name, action) = text.split_once('=')?;
            let (action, nth) = action.split_once(':').unwrap_or((action, "1"));
            let point = FailPoint::ALL.into_iter().find(|point| point.name() == name)?;
            let action = match action {
                "kill" => Action::Kill,
                "error" => Action::Error,
                "panic" => Action::Panic,
                _ => return None,
            };
            Some(Order { point, action, nth: nth.parse().ok().filter(|nth| *nth > 0)? })
        };
        read().ok_or_else(|| text.to_owned())
    }

    fn record(order: &Order) -> io::Result<()> {
        let Some(path) = variable("DBAGENT_FAILPOINT_LOG").map(PathBuf::from) else { return Ok(()) };
        let mut file = OpenOptions::new().create(true).append(true).open(path)?;
        file.write_all(format!("{} {:?}\n", order.point.name(), order.action).as_bytes())
    }

    #[expect(clippy::disallowed_methods, reason = "a switch of tests, not of operators: no part of the configuration")]
    fn variable(name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_point_has_a_name_of_its_own() {
        let names: HashSet<_> = FailPoint::ALL.iter().map(|point| point.name()).collect();
        assert_eq!(names.len(), FailPoint::ALL.len());
    }

    #[cfg(feature = "failpoints")]
    #[test]
    fn an_order_names_a_point_an_action_and_an_arrival() {
        let order = armed::parse("dump.mid_stream=error:3").unwrap();
        assert_eq!((order.point, order.action, order.nth), (FailPoint::DumpMidStream, armed::Action::Error, 3));
        assert_eq!(armed::parse("dump.spawned=kill").unwrap().nth, 1);
        for text in ["dump.nowhere=kill", "dump.spawned", "dump.spawned=sleep", "dump.spawned=kill:0"] {
            assert!(armed::parse(text).is_err(), "{text} was taken");
        }
    }
}
