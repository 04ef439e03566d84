//! The log of a base backup: complete only when every segment of it was read back from the repository.

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::catalog::Repository;
use crate::model::base::BaseRecord;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{Encoding, ObjectRecord, ObjectRole};
use crate::model::wal::{SegmentName, WalFile};
use crate::ops::base_backup::Work;
use crate::ops::base_backup::places::Place;
use crate::pipeline::fetch;

/// What to do where a server keeps its log.
pub(super) const NOT_ARCHIVED: &str =
    "See why the server does not archive: SELECT * FROM pg_stat_archiver; `dbagent wal list` shows what is stored.";

/// How soon a repository is asked again for a segment that is not there yet, at first: the last one is on its way when a
/// backup ends. Each time it is twice as long, up to [`ASK_EVERY`].
const ASK_AGAIN: Duration = Duration::from_millis(25);

/// How often a repository is asked in the long run.
const ASK_EVERY: Duration = Duration::from_millis(500);

impl Work<'_> {
    /// Waits until every repository holds the log from the backup's start to its end; one that does not get it in time
    /// is left behind.
    pub(super) async fn await_log(&self, record: &BaseRecord) -> Result<(), Failure> {
        let waiting: Vec<BoxFuture<'_, ()>> =
            self.places.going().into_iter().map(|place| self.awaiting(place, record)).collect();
        let all = async {
            futures_util::future::join_all(waiting).await;
            Ok(())
        };
        self.setting.unless_stopped("wait for the log of the base backup", all).await?;
        self.places.require_one()
    }

    fn awaiting<'s>(&'s self, place: &'s Place, record: &'s BaseRecord) -> BoxFuture<'s, ()> {
        self.await_in(place, record).boxed()
    }

    async fn await_in(&self, place: &Place, record: &BaseRecord) {
        if let Err(error) = self.await_segments(&place.repository, record).await {
            place.give_up(error);
        }
    }

    async fn await_segments(&self, repository: &Repository, record: &BaseRecord) -> Result<(), Failure> {
        let (Some(range), Some(size)) = (record.segments(), record.segment_size()) else {
            return Err(Failure::new(FailureKind::Failed, "understand which segments of the log the backup needs"));
        };
        let deadline = self.setting.clock.monotonic() + self.options.wal_timeout;
        let mut segment = Some(range.first);
        while let Some(name) = segment.filter(|name| *name <= range.last) {
            let mut pause = ASK_AGAIN;
            while !self.is_stored(repository, name).await? {
                if self.setting.clock.monotonic() >= deadline {
                    return Err(missing(repository, name, record, self.options.wal_timeout));
                }
                self.setting.clock.sleep(pause).await;
                pause = (pause * 2).min(ASK_EVERY);
            }
            segment = name.next(size);
        }
        Ok(())
    }

    /// Whether `segment` is recorded, of this cluster, and its bytes are what the record says.
    async fn is_stored(&self, repository: &Repository, segment: SegmentName) -> Result<bool, Failure> {
        let recorded = repository.wal_record(WalFile::Segment(segment), self.setting.clock.now()).await?;
        let Some(record) = recorded else { return Ok(false) };
        if self.cluster.facts.server.system_identifier.is_some_and(|ours| ours != record.system_identifier) {
            let message = format!("use the segment {segment} in {}: it is of another cluster", repository.name);
            return Err(Failure::new(FailureKind::Integrity, message));
        }
        let object = ObjectRecord {
            role: ObjectRole::Data,
            key: record.object,
            version: None,
            content_size: record.content_size,
            content_digest: record.content_digest,
            stored_size: record.stored_size,
            stored_digest: record.stored_digest,
            encoding: vec![Encoding::Zstd],
            storage_class: None,
            sse: None,
        };
        let download = repository.storage.get(&object.key, None, None).await?;
        fetch::verify(download, &object).await?;
        Ok(true)
    }
}

fn missing(repository: &Repository, segment: SegmentName, record: &BaseRecord, after: Duration) -> Failure {
    let message = format!(
        "complete the base backup in repository {}: the segment {segment} of its log did not arrive within {} s",
        repository.name,
        after.as_secs()
    );
    let hint = match record.from_standby {
        true => "Only the primary ends a segment: run SELECT pg_switch_wal() there, or set archive_timeout.",
        false => NOT_ARCHIVED,
    };
    Failure::new(FailureKind::Failed, message).hint(hint)
}
