//! What was signed: every checkpoint and every seal of every repository, held against the chain as it is.
//!
//! A repository that cannot be read is a trouble, not a finding: nothing can be said against what it holds. A seal lets a
//! partition be gone; the row that the database keeps of a seal lets nothing.

use chrono::{DateTime, Utc};

use crate::catalog::{CheckpointHistory, Reading, Repository, Seals, StoredCheckpoint, StoredSeal};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::{Kept, Mark, Origin, Present, contradictions};
use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad, fold};
use crate::model::audit::seal::{Seal, SealedRanges};
use crate::model::digest::Digest;
use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::model::table::QualifiedTable;
use crate::postgres::audit::seals::Recorded;
use crate::postgres::audit::{ChainSnapshot, Partition};

/// A place of the chain that is known to be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The place.
    pub seq: i64,
    /// The hash there.
    pub hash: Digest,
}

/// What one repository holds.
#[derive(Debug)]
struct Held {
    repository: String,
    checkpoints: CheckpointHistory,
    seals: Seals,
}

/// The checkpoints and seals of every repository.
#[derive(Debug, Default)]
pub struct Signed {
    held: Vec<Held>,
    /// Repositories that could not be read: nothing can be said against what they hold.
    pub troubles: Vec<Finding>,
}

impl Signed {
    /// Reads them all. A repository that cannot be read is a trouble.
    pub async fn read(
        repositories: &[Repository],
        unopened: &[(String, Failure)],
        reading: Reading,
        now: DateTime<Utc>,
    ) -> Self {
        let mut signed = Self::default();
        for repository in repositories {
            match read_one(repository, reading, now).await {
                Ok(held) => signed.held.push(held),
                Err(failure) => signed.trouble(&repository.name, &failure),
            }
        }
        unopened.iter().for_each(|(name, failure)| signed.trouble(name, failure));
        signed
    }

    fn trouble(&mut self, repository: &str, failure: &Failure) {
        let message =
            format!("the checkpoints in repository {repository} were not compared: {}", failure.full_message());
        self.troubles.push(Finding::new(Severity::Warning, "checkpoints-unread", message));
    }

    /// Leaves out what was signed after `moment`: it says nothing of a copy of the chain as it was then.
    pub fn forget_after(&mut self, moment: DateTime<Utc>) {
        for held in &mut self.held {
            held.checkpoints.marks.retain(|mark| mark.taken <= moment);
            held.checkpoints.newest.take_if(|newest| newest.checkpoint.taken > moment);
            held.seals.stored.retain(|stored| stored.seal.sealed <= moment);
        }
    }

    fn marks(&self) -> impl Iterator<Item = &Mark> {
        self.held.iter().flat_map(|held| &held.checkpoints.marks)
    }

    /// The places that checkpoints name, and those where sealed stretches end.
    pub fn places(&self) -> Vec<i64> {
        let tails = self.seals().into_iter().flat_map(|stored| stored.seal.stretches.iter().map(|each| each.last));
        let mut places: Vec<i64> = self.marks().map(|mark| mark.size).chain(tails).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// How many checkpoints there are.
    pub fn count(&self) -> usize {
        self.marks().count()
    }

    /// Whether a chain was ever signed, as far as anybody can know.
    pub fn may_be_chain(&self) -> bool {
        self.count() > 0 || !self.troubles.is_empty()
    }

    /// The newest place up to which everything was verified, and when.
    pub fn anchor(&self) -> Option<(Anchor, DateTime<Utc>)> {
        let newest = self.marks().filter(|mark| mark.verified).max_by_key(|mark| mark.taken)?;
        Some((Anchor { seq: newest.size, hash: newest.hash? }, newest.taken))
    }

    /// Key of the newest checkpoint.
    pub fn newest(&self) -> Option<String> {
        self.newest_checkpoint().map(|stored| stored.key.to_string())
    }

    /// The digest of formulas for older rows that the newest checkpoint of a chain with rows has signed; nothing where no chain
    /// with rows was signed.
    pub fn profiles(&self) -> Option<Option<Digest>> {
        let newest = self.newest_checkpoint().map(|stored| &stored.checkpoint);
        newest.filter(|newest| newest.size > 0).map(|newest| newest.profiles)
    }

    fn newest_checkpoint(&self) -> Option<&StoredCheckpoint> {
        let stored = self.held.iter().filter_map(|held| held.checkpoints.newest.as_ref());
        stored.max_by_key(|stored| stored.checkpoint.taken)
    }

    /// How often the chain was put back on purpose, as far as anybody has stated it.
    pub fn incarnation(&self) -> u32 {
        self.marks().map(|mark| mark.incarnation).max().unwrap_or_default()
    }

    /// Every seal that still counts, by number; one that lies in several repositories once.
    pub fn seals(&self) -> Vec<&StoredSeal> {
        let mut seals: Vec<&StoredSeal> = Vec::new();
        for held in &self.held {
            let kept = Kept::of(&held.checkpoints.marks);
            seals.extend(held.seals.stored.iter().filter(|stored| stored.seal.counts(&kept)));
        }
        seals.sort_by_key(|stored| (stored.seal.number, stored.digest));
        seals.dedup_by_key(|stored| stored.digest);
        seals
    }

    /// The newest seal of `partition`.
    pub fn seal_of(&self, partition: &QualifiedTable) -> Option<&StoredSeal> {
        self.seals().into_iter().rev().find(|stored| stored.seal.partition == *partition)
    }

    /// Seals that `repository` does not have, in order.
    pub fn lacking(&self, repository: &str) -> Vec<&StoredSeal> {
        let held = self.held.iter().find(|held| held.repository == repository);
        let has = |stored: &StoredSeal| {
            held.is_some_and(|held| held.seals.stored.iter().any(|other| other.digest == stored.digest))
        };
        self.seals().into_iter().filter(|stored| !has(stored)).collect()
    }

    /// The first seal that cannot be believed, and where, in words.
    pub fn seal_fault(&self) -> Option<String> {
        let fault = |held: &Held| Some(format!("in repository {}: {}", held.repository, held.seals.faults.first()?));
        self.held.iter().find_map(fault).or_else(|| {
            let numbers: Vec<u32> = self.seals().iter().map(|stored| stored.seal.number).collect();
            let twice = numbers.windows(2).find(|pair| pair[0] == pair[1])?;
            Some(format!("repositories have different seals of number {}", twice[0]))
        })
    }

    /// What is sealed and gone on `snapshot`: no partition of that name is there, or one without the places that were sealed,
    /// made anew for a longer retention.
    pub async fn sealed_away(&self, snapshot: &ChainSnapshot) -> Result<SealedRanges, Failure> {
        let seals = self.seals();
        let first = |seal: &Seal| seal.range().map(|(first, _)| first);
        let firsts: Vec<i64> = seals.iter().filter_map(|stored| first(&stored.seal)).collect();
        let places = snapshot.hashes_at(&firsts).await?;
        let is_there = |seal: &Seal| {
            let named = snapshot.partitions.iter().any(|partition| partition.table == seal.partition);
            named && first(seal).is_none_or(|first| places.contains_key(&first))
        };
        Ok(SealedRanges::of(seals.into_iter().map(|stored| &stored.seal).filter(|seal| !is_there(seal))))
    }

    /// What is sealed and not among `partitions`: for a log whose places are not known.
    pub fn sealed_beyond(&self, partitions: &[Partition]) -> SealedRanges {
        let is_there = |seal: &Seal| partitions.iter().any(|partition| partition.table == seal.partition);
        SealedRanges::of(self.seals().into_iter().map(|stored| &stored.seal).filter(|seal| !is_there(seal)))
    }

    /// Errors when the database says that partitions are sealed and gone, and no repository could be asked: then nothing can
    /// be said of the chain.
    pub fn require_seals(&self, recorded: &[Recorded]) -> Result<(), Failure> {
        if !self.held.is_empty() || recorded.iter().all(|seal| seal.is_there) {
            return Ok(());
        }
        let message =
            "verify the audit chain: partitions are sealed and gone, and no repository with their seals can be read";
        Err(Failure::new(crate::model::failure::FailureKind::Failed, message))
    }

    /// What contradicts the chain that ends at `size`, one finding of each kind.
    pub fn against(
        &self,
        size: i64,
        origin: &Origin,
        sealed: &SealedRanges,
        hash_at: impl Fn(i64) -> Option<Digest>,
    ) -> Vec<ChainFinding> {
        let mut findings = Vec::new();
        for Held { repository, checkpoints, .. } in &self.held {
            // Where the newest is gone, what is remembered of it and of those before still counts.
            let last = checkpoints.newest.as_ref().map_or(origin, |newest| &newest.checkpoint.origin);
            findings.extend(contradictions(&checkpoints.marks, last, &Present { size, sealed, origin }, &hash_at));
            if let Some(fault) = checkpoints.faults.first() {
                let count = checkpoints.faults.len();
                let message = format!("{count} checkpoints in repository {repository} cannot be believed: {fault}");
                findings.push(ChainFinding::new(FindingKind::CheckpointMissing, message));
            }
        }
        if let Some(fault) = self.seal_fault() {
            let message = format!("seals of the chain cannot be believed: {fault}");
            findings.push(ChainFinding::new(FindingKind::CheckpointMissing, message));
        }
        findings.extend(self.seals().into_iter().find_map(|stored| resealed(&stored.seal, sealed, size, &hash_at)));
        fold(&findings)
    }

    /// Partitions that had rows when the newest checkpoint was signed, and that are gone without a signed seal; and rows of
    /// the database's own list of seals that no signed seal stands behind.
    pub fn unsealed(&self, partitions: &[Partition], recorded: &[Recorded]) -> Option<ChainFinding> {
        let here = |name: &str| partitions.iter().any(|partition| partition.table.name == name);
        let seals = self.seals();
        let sealed = |name: &str| seals.iter().any(|stored| stored.seal.partition.name == name);
        let lost = self.newest_checkpoint().into_iter().flat_map(|newest| &newest.checkpoint.partitions);
        let lost: Vec<(&String, &u64)> =
            lost.filter(|(name, rows)| **rows > 0 && !here(name) && !sealed(name)).collect();
        if let Some((first, _)) = lost.first() {
            let rows: u64 = lost.iter().map(|(_, rows)| **rows).sum();
            let names: Vec<&str> = lost.iter().map(|(name, _)| name.as_str()).collect();
            let message =
                format!("partitions are gone without a seal, and {rows} rows with them: {}", names.join(", "));
            let first_bad = FirstBad { partition: Some((*first).clone()), ..FirstBad::default() };
            return Some(ChainFinding::new(FindingKind::UnsealedRemoval, message).rows(first_bad, rows));
        }
        let signed = |each: &&Recorded| seals.iter().any(|stored| Some(stored.digest) == each.digest);
        let forged = recorded.iter().find(|each| !signed(each)).filter(|_| self.troubles.is_empty())?;
        let message = format!("audit.seals names a seal of {} that nobody has signed", forged.partition);
        let first_bad = FirstBad { partition: Some(forged.partition.clone()), ..FirstBad::default() };
        Some(ChainFinding::new(FindingKind::UnsealedRemoval, message).rows(first_bad, 0))
    }
}

async fn read_one(repository: &Repository, reading: Reading, now: DateTime<Utc>) -> Result<Held, Failure> {
    let checkpoints = repository.checkpoint_history(CHAIN, reading, now).await?;
    let seals = repository.seals(CHAIN, now).await?;
    Ok(Held { repository: repository.name.clone(), checkpoints, seals })
}

/// Where the chain is not the one that `seal`, whose partition is still there, has signed.
fn resealed(
    seal: &Seal,
    sealed: &SealedRanges,
    size: i64,
    hash_at: impl Fn(i64) -> Option<Digest>,
) -> Option<ChainFinding> {
    let there = |seq: i64| seq <= size && !sealed.covers(seq);
    let differs = |seq: i64, tail: Digest| there(seq) && hash_at(seq).is_some_and(|hash| hash != tail);
    let bad = seal.stretches.iter().find(|stretch| differs(stretch.last, stretch.tail))?;
    let message = format!("the chain is not the one that seal {} of {} has signed", seal.number, seal.partition);
    let first = FirstBad { seq: Some(bad.first), partition: Some(seal.partition.name.clone()), ..FirstBad::default() };
    Some(ChainFinding::new(FindingKind::HistoryRewritten, message).rows(first, seal.rows))
}
