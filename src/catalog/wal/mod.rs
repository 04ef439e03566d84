//! Archived WAL in one repository: which files are stored, the signed record of each, the tree of timelines.
//!
//! WAL has names and records of its own and never enters the catalog's numbered log: a segment must cost no more than
//! its own two writes. A file is stored when its record is, and the record is written last; it says which object holds
//! the bytes and what they are. Moving the bytes themselves is `steps::wal`.

mod coverage;
mod eras;
mod leftovers;
mod record;

pub use coverage::{Coverage, Stored};
pub use leftovers::WalLeftovers;
pub use record::WalRecord;

use chrono::{DateTime, Utc};

use crate::catalog::envelope;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::names::wal as names;
use crate::catalog::repository::Repository;
use crate::model::lsn::Timeline;
use crate::model::timeline::{BadHistory, TimelineHistory, TimelineTree};
use crate::model::wal::{SegmentName, SegmentSize, WalFile};

impl Repository {
    /// What is recorded of `file`, its signature checked; nothing when it is not stored. A record that is not of this
    /// file, or whose signature is wrong, is an error.
    pub async fn wal_record(&self, file: WalFile, now: DateTime<Utc>) -> Result<Option<WalRecord>, CatalogError> {
        let key = names::record(file)?;
        let stored = match self.read(&key).await {
            Err(error) if error.is_missing() => return Ok(None),
            stored => stored?,
        };
        let text = envelope::unseal(&stored, &self.verifier, now)
            .map_err(|error| CatalogError::new(error.kind, format!("believe {key} in {}", self.name)).because(error))?;
        WalRecord::read(&text, file).map(Some)
    }

    /// Records that `record`'s file is stored: the commit point of a push. `is_exists` when there is a record already.
    pub async fn put_wal_record(&self, record: &WalRecord, now: DateTime<Utc>) -> Result<(), CatalogError> {
        let sealed = envelope::seal(record.text()?, self.signer()?, now)?;
        Ok(self.write(&names::record(record.name)?, sealed).await?)
    }

    /// Takes back the record of `file`: for one whose bytes are gone, and for expiry.
    pub async fn remove_wal_record(&self, file: WalFile) -> Result<(), CatalogError> {
        Ok(self.storage.delete(&names::record(file)?, None).await?)
    }

    /// The timelines of which segments are stored, or were begun to be stored, ascending.
    pub async fn wal_timelines(&self) -> Result<Vec<Timeline>, CatalogError> {
        let folders = self.storage.folders_in(&names::folder()).await?;
        let mut timelines: Vec<_> = folders.iter().filter_map(|name| names::timeline_of_folder(name)).collect();
        timelines.sort_unstable();
        Ok(timelines)
    }

    /// Where `timeline` comes from; nothing when its history is not stored.
    pub async fn wal_history(
        &self,
        timeline: Timeline,
        now: DateTime<Utc>,
    ) -> Result<Option<TimelineHistory>, CatalogError> {
        let Some(record) = self.wal_record(WalFile::History(timeline), now).await? else { return Ok(None) };
        TimelineHistory::new(timeline, record.ancestors).map(Some).map_err(malformed)
    }

    /// Every timeline whose history is stored. New timelines are numbered one after the other, so that those without
    /// segments yet are found by asking on.
    pub async fn wal_tree(&self, now: DateTime<Utc>) -> Result<TimelineTree, CatalogError> {
        let mut tree = TimelineTree::default();
        let known = self.wal_timelines().await?;
        let mut last = Timeline(1);
        for timeline in known {
            last = last.max(timeline);
            if let Some(history) = self.wal_history(timeline, now).await? {
                tree.insert(history).map_err(malformed)?;
            }
        }
        while let Some(next) = last.0.checked_add(1).map(Timeline)
            && let Some(history) = self.wal_history(next, now).await?
        {
            tree.insert(history).map_err(malformed)?;
            last = next;
        }
        Ok(tree)
    }

    /// The size of the segments of `timeline`, as the first record of one says that can be believed; nothing when none is
    /// stored.
    pub async fn wal_segment_size(
        &self,
        timeline: Timeline,
        now: DateTime<Utc>,
    ) -> Result<Option<SegmentSize>, CatalogError> {
        let mut refused = None;
        for segment in self.first_segments(timeline).await? {
            let size = match self.wal_record(WalFile::Segment(segment), now).await {
                Ok(Some(record)) => size_of(segment, &record),
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match size {
                Err(error) if !matches!(error.kind, CatalogErrorKind::Storage(_)) => refused = refused.or(Some(error)),
                size => return size.map(Some),
            }
        }
        refused.map_or(Ok(None), Err)
    }

    /// The first segments that are recorded: those of one page of the listing.
    async fn first_segments(&self, timeline: Timeline) -> Result<Vec<SegmentName>, CatalogError> {
        let mut from = None;
        loop {
            let page = self.storage.list(&names::timeline(timeline), from.as_ref()).await?;
            let recorded = page.objects.iter().filter_map(|object| match names::WalKey::of(&object.key)? {
                names::WalKey::Record(WalFile::Segment(segment)) => Some(segment),
                _ => None,
            });
            let recorded: Vec<_> = recorded.collect();
            match (recorded.is_empty(), page.next) {
                (true, Some(next)) => from = Some(next),
                _ => return Ok(recorded),
            }
        }
    }
}

fn size_of(segment: SegmentName, record: &WalRecord) -> Result<SegmentSize, CatalogError> {
    SegmentSize::new(record.content_size).ok_or_else(|| {
        let message = format!("believe the record of {segment}: no segment has {} bytes", record.content_size);
        CatalogError::new(CatalogErrorKind::Malformed, message)
    })
}

fn malformed(error: BadHistory) -> CatalogError {
    CatalogError::new(CatalogErrorKind::Malformed, error.to_string())
}
