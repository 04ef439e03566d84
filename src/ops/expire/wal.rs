//! What an expiry would do to the archived WAL of one repository, and doing it.
//!
//! The rule says what the repository itself no longer needs. A segment goes only if, besides, no other repository still
//! waits for it: one that needs it by its own rule must hold the same bytes, by the digests of the two records. Deletion
//! takes the record first, so that a crash leaves bytes that count for nothing, never a record without bytes.

use std::collections::BTreeSet;

use futures_util::stream::{self, StreamExt as _};

use crate::catalog::wal::WalRecord;
use crate::catalog::{CatalogError, Repository};
use crate::host::failpoint::{FailPoint, pass};
use crate::model::failure::Failure;
use crate::model::lsn::Timeline;
use crate::model::outcome::{Finding, Severity};
use crate::model::wal::{SegmentRange, SegmentRanges, SegmentSize, WalFile};
use crate::model::wal_retention::{WalDecision, WalReason, WalRule};
use crate::ops::Setting;
use crate::steps::wal::Archive;

/// Records that are read, or files that are deleted, at once.
const AT_ONCE: usize = 16;

/// WAL files for which the same was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalFiles {
    /// Segments without a gap.
    Segments(SegmentRange, SegmentSize),
    /// A history, a partial segment, the note of a base backup.
    One(WalFile),
}

/// What is to become of some WAL files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalFate {
    /// Which.
    pub files: WalFiles,
    /// Whether they stay.
    pub keep: bool,
    /// Why.
    pub reason: WalReason,
}

impl WalFate {
    /// How many files.
    pub fn count(&self) -> u64 {
        match self.files {
            WalFiles::Segments(range, size) => range.count(size),
            WalFiles::One(_) => 1,
        }
    }
}

/// A repository whose WAL is judged, or that may need what another one has.
pub(super) struct Holder<'a> {
    pub(super) repository: &'a Repository,
    pub(super) archive: &'a Archive,
    pub(super) rule: WalRule,
}

/// Another repository, or the name of one of which nothing is known.
pub(super) type Other<'a> = Result<&'a Holder<'a>, &'a str>;

impl Holder<'_> {
    /// Decides over all of it.
    pub(super) async fn plan(&self, others: &[Other<'_>], setting: &Setting) -> Result<Vec<WalFate>, Failure> {
        let mut fates = Vec::new();
        for coverage in &self.archive.coverages {
            for range in &coverage.ranges {
                for (piece, decision) in self.rule.judge_range(*range, coverage.size) {
                    if decision.keep {
                        let files = WalFiles::Segments(piece, coverage.size);
                        fates.push(WalFate { files, keep: true, reason: decision.reason });
                        continue;
                    }
                    let files: Vec<_> = piece.segments(coverage.size).map(WalFile::Segment).collect();
                    let judged = self.judge_each(files, others, setting).await?;
                    fates.extend(in_ranges(judged, coverage.size));
                }
            }
            let single = coverage.others.iter().chain(&coverage.without_bytes).copied().collect();
            fates.extend(self.judge_each(single, others, setting).await?.into_iter().map(one));
        }
        let staying: BTreeSet<Timeline> = fates.iter().filter(|fate| fate.keep).map(timeline).collect();
        for history in self.rule.timelines.tree.histories() {
            let file = WalFile::History(history.timeline());
            let mut decision = self.decide(file, others, setting).await?;
            if !decision.keep && staying.contains(&history.timeline()) {
                decision = WalDecision::keep(WalReason::TimelineInUse);
            }
            fates.push(one((file, decision)));
        }
        Ok(fates)
    }

    /// Decides over `files`, in their order.
    async fn judge_each(
        &self,
        files: Vec<WalFile>,
        others: &[Other<'_>],
        setting: &Setting,
    ) -> Result<Vec<(WalFile, WalDecision)>, Failure> {
        let mut judged = Vec::new();
        let mut judging = stream::iter(files)
            .map(|file| async move { (file, self.decide(file, others, setting).await) })
            .buffered(AT_ONCE);
        while let Some((file, decision)) = judging.next().await {
            setting.require_going_on("go on looking at the WAL")?;
            judged.push((file, decision?));
        }
        Ok(judged)
    }

    /// What becomes of `file`, its record and the other repositories asked.
    async fn decide(&self, file: WalFile, others: &[Other<'_>], setting: &Setting) -> Result<WalDecision, Failure> {
        let decision = self.rule.judge(file);
        if decision.keep {
            return Ok(decision);
        }
        let record = match self.repository.wal_record(file, setting.clock.now()).await {
            Ok(Some(record)) => record,
            // It went meanwhile.
            Ok(None) => return Ok(decision),
            Err(error) => return unreadable(error),
        };
        if record.recorded > self.rule.grace_begins {
            return Ok(WalDecision::keep(WalReason::InGrace));
        }
        for other in others {
            match other {
                Err(name) => return Ok(WalDecision::keep(WalReason::UnknownTo((*name).to_owned()))),
                Ok(other) if other.waits_for(&record, setting).await? => {
                    return Ok(WalDecision::keep(WalReason::AwaitedBy(other.repository.name.clone())));
                }
                Ok(_) => {}
            }
        }
        Ok(decision)
    }

    /// Whether this repository needs the file of `record` by its own rule and does not hold the same.
    async fn waits_for(&self, record: &WalRecord, setting: &Setting) -> Result<bool, Failure> {
        let decision = self.rule.judge(record.name);
        // Without a base backup a segment is of no use there either.
        let useless = decision.reason == WalReason::NoBase && record.name.segment().is_some();
        if !decision.keep || useless {
            return Ok(false);
        }
        match self.repository.wal_record(record.name, setting.clock.now()).await {
            Ok(Some(own)) if own.content_digest == record.content_digest => {
                Ok(!self.repository.storage.head(&own.object).await.is_ok_and(|meta| meta.size == own.stored_size))
            }
            Ok(_) => Ok(true),
            Err(error) => unreadable(error).map(|_| true),
        }
    }
}

/// Deletes what `fates` lets go. Gives how many files went and the bytes freed; what could not be deleted becomes a
/// finding.
pub(super) async fn apply(
    repository: &Repository,
    fates: &[WalFate],
    setting: &Setting,
    findings: &mut Vec<Finding>,
) -> Result<(u64, u64), Failure> {
    let (mut files, mut bytes) = (0, 0);
    let mut stuck: BTreeSet<Timeline> = BTreeSet::new();
    // Histories come last: without them nothing could be said of what is left of their timelines.
    for fate in fates.iter().filter(|fate| !fate.keep) {
        if matches!(fate.files, WalFiles::One(WalFile::History(timeline)) if stuck.contains(&timeline)) {
            continue;
        }
        let each = stream::iter(fate.files.each());
        let mut deleting =
            each.map(|file| async move { (file, delete(repository, file, setting).await) }).buffered(AT_ONCE);
        while let Some((file, deleted)) = deleting.next().await {
            setting.require_going_on("go on expiring WAL")?;
            match deleted {
                Ok(freed) => (files, bytes) = (files + 1, bytes + freed),
                Err(failure) => {
                    stuck.insert(file.timeline());
                    findings.push(not_deleted(repository, file, &failure));
                }
            }
        }
    }
    Ok((files, bytes))
}

async fn delete(repository: &Repository, file: WalFile, setting: &Setting) -> Result<u64, Failure> {
    let Some(record) = repository.wal_record(file, setting.clock.now()).await? else { return Ok(0) };
    repository.remove_wal_record(file).await?;
    pass(FailPoint::ExpireWalRecordDeleted)?;
    // Never by version: who prunes may only hide an object in a versioned bucket.
    repository.storage.delete(&record.object, None).await?;
    pass(FailPoint::ExpireWalObjectDeleted)?;
    Ok(record.stored_size)
}

fn not_deleted(repository: &Repository, file: WalFile, failure: &Failure) -> Finding {
    let message = format!("cannot delete {file} in repository {}: {}", repository.name, failure.full_message());
    Finding::new(Severity::Critical, "not-deleted", message)
}

/// A record that says nothing is no reason to delete, nor one to stop; a store that does not answer is.
fn unreadable(error: CatalogError) -> Result<WalDecision, Failure> {
    match error.kind {
        crate::catalog::CatalogErrorKind::Storage(_) => Err(error.into()),
        _ => Ok(WalDecision::keep(WalReason::Unreadable)),
    }
}

impl WalFiles {
    fn each(self) -> Box<dyn Iterator<Item = WalFile> + Send> {
        match self {
            Self::Segments(range, size) => Box::new(range.segments(size).map(WalFile::Segment)),
            Self::One(file) => Box::new(std::iter::once(file)),
        }
    }
}

fn timeline(fate: &WalFate) -> Timeline {
    match fate.files {
        WalFiles::Segments(range, _) => range.first.timeline(),
        WalFiles::One(file) => file.timeline(),
    }
}

fn one((file, decision): (WalFile, WalDecision)) -> WalFate {
    WalFate { files: WalFiles::One(file), keep: decision.keep, reason: decision.reason }
}

/// Segments in ascending order, joined where the same was decided of neighbours.
fn in_ranges(judged: Vec<(WalFile, WalDecision)>, size: SegmentSize) -> Vec<WalFate> {
    let mut fates: Vec<WalFate> = Vec::new();
    for runs in judged.chunk_by(|a, b| a.1 == b.1) {
        let mut ranges = SegmentRanges::new(size);
        runs.iter().filter_map(|(file, _)| file.segment()).for_each(|segment| ranges.push(segment));
        let WalDecision { keep, reason } = &runs[0].1;
        fates.extend(ranges.finish().into_iter().map(|range| WalFate {
            files: WalFiles::Segments(range, size),
            keep: *keep,
            reason: reason.clone(),
        }));
    }
    fates
}

/// A finding for each repository that WAL is kept for beyond its place's own rule.
pub(super) fn awaited(repository: &Repository, fates: &[WalFate]) -> Vec<Finding> {
    let mut found: std::collections::BTreeMap<&WalReason, u64> = std::collections::BTreeMap::new();
    for fate in fates.iter().filter(|fate| fate.keep) {
        if matches!(fate.reason, WalReason::AwaitedBy(_) | WalReason::UnknownTo(_) | WalReason::Unreadable) {
            *found.entry(&fate.reason).or_default() += fate.count();
        }
    }
    let finding = |(reason, count): (&WalReason, u64)| {
        let message = format!("{count} WAL files stay in repository {} beyond its own rule: {reason}", repository.name);
        let remedy = match reason {
            WalReason::AwaitedBy(_) => {
                "`dbagent wal sync` carries them there; `dbagent wal list` shows what is missing"
            }
            WalReason::UnknownTo(_) => "mend that repository, or take it out of the configuration",
            _ => "`dbagent wal verify` reads the records; the signer's certificate belongs into [verification]",
        };
        Finding::new(Severity::Warning, "wal-held", message).remedy(remedy)
    };
    found.into_iter().map(finding).collect()
}
