//! The parent: the newest whole and verified dump or increment of these tables that every repository holds.
//!
//! Each repository must be able to restore alone, so a parent that only some of them hold is none. Its sums of keys are
//! read relation by relation, so that memory does not grow with the database.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, Repository, chain};
use crate::model::buckets::{KeySums, STORED_BYTES};
use crate::model::chain::{FullNeeded, Horizon, Present, covers, horizon, log_from};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::lsn::Lsn;
use crate::model::manifest::{KeyRecord, LogMark, ObjectRole, ParentRecord, SourceRecord, TableRecord};
use crate::model::verb::Verb;
use crate::ops::increment::roots;
use crate::postgres::Coordinator;
use crate::steps::artifact::{Target, require_one};
use crate::steps::hold::require_standing;
use crate::steps::holdings::holdings;

/// What an increment builds upon.
pub(super) struct Parent {
    /// Its copy in each repository.
    copies: Vec<(Repository, Artifact)>,
    by_oid: BTreeMap<u32, TableRecord>,
    as_of: DateTime<Utc>,
    /// From where on the log tells what it may not have seen.
    log_from: Option<LogMark>,
    /// The log's position before the chain's full dump.
    root: Option<Lsn>,
    /// What it had seen.
    pub(super) horizon: Horizon,
}

impl Parent {
    /// Finds it, or says why a full dump is needed. A repository that cannot be read is left behind.
    pub(super) async fn find(
        coordinator: &Coordinator,
        targets: &mut [Target],
        now: DateTime<Utc>,
    ) -> Result<Result<Self, FullNeeded>, Failure> {
        let history = coordinator.timeline_history().await?;
        let (source, roots) = (coordinator.source_record(), roots(coordinator));
        let present = Present {
            source: &source,
            roots: &roots,
            all_tables: coordinator.covers_all_tables(),
            history: history.as_deref(),
        };
        let mut held = Vec::new();
        for target in targets.iter_mut().filter(|target| target.is_going()) {
            match holdings(&target.repository, now).await {
                Ok(artifacts) => held.push((target.repository.clone(), artifacts)),
                Err(failure) => target.give_up(failure),
            }
        }
        require_one(targets)?;
        let (copies, line) = newest_of_all(held, &present);
        let Some((_, first)) = copies.first() else { return Ok(Err(FullNeeded::NoParent)) };
        if first.manifest.tables.iter().all(|record| record.fingerprint.is_none()) {
            return Ok(Err(FullNeeded::NoSums));
        }
        let horizon = match horizon(&first.manifest, &present) {
            Ok(horizon) => horizon,
            Err(needed) => return Ok(Err(needed)),
        };
        let by_oid = first.manifest.tables.iter().map(|record| (record.oid, record.clone())).collect();
        let as_of = first.manifest.as_of();
        let root = line.first().and_then(|source| source.log).map(|mark| mark.lsn);
        Ok(Ok(Self { copies, by_oid, as_of, log_from: log_from(line.iter()), root, horizon }))
    }

    /// Its name, for people.
    pub(super) fn name(&self) -> String {
        self.copies.first().map(|(_, artifact)| artifact.name.to_string()).unwrap_or_default()
    }

    /// The instant whose state it is.
    pub(super) fn as_of(&self) -> DateTime<Utc> {
        self.as_of
    }

    /// From where on the log tells what it may not have seen, where its chain says so.
    pub(super) fn log_from(&self) -> Option<LogMark> {
        self.log_from
    }

    /// Where the log stood before the full dump that its chain begins with.
    pub(super) fn root(&self) -> Option<Lsn> {
        self.root
    }

    /// What it recorded of the relation.
    pub(super) fn record(&self, oid: u32) -> Option<&TableRecord> {
        self.by_oid.get(&oid)
    }

    /// How a manifest refers to it, by repository.
    pub(super) fn records(&self) -> BTreeMap<String, ParentRecord> {
        let record =
            |artifact: &Artifact| ParentRecord { id: artifact.manifest.id, manifest_digest: artifact.manifest_digest };
        self.copies.iter().map(|(repository, artifact)| (repository.name.clone(), record(artifact))).collect()
    }

    /// Leaves every repository behind that it was deleted from: what builds upon it could not be restored there.
    pub(super) async fn require_standing(&self, targets: &mut [Target]) -> Result<(), Failure> {
        for target in targets.iter_mut().filter(|target| target.is_going()) {
            let copy = self.copies.iter().find(|(repository, _)| repository.name == target.repository.name);
            let Some((repository, artifact)) = copy else { continue };
            if let Err(failure) = require_standing(&artifact.name, repository).await {
                target.give_up(failure);
            }
        }
        require_one(targets)
    }

    /// What the keys of one of its relations added up to, from the first repository whose copy is right.
    pub(super) async fn sums(&self, key: &KeyRecord) -> Result<KeySums, Failure> {
        let mut failures = Vec::new();
        for (repository, artifact) in &self.copies {
            match read_sums(repository, artifact, key).await {
                Ok(sums) => return Ok(sums),
                Err(failure) => failures.push(failure),
            }
        }
        Err(failures
            .pop()
            .unwrap_or_else(|| Failure::new(FailureKind::NothingMatches, "read the parent's sums of keys")))
    }
}

/// The copies of the newest artifact that is a good parent in each of `held`, and what its chain was taken from.
fn newest_of_all(
    held: Vec<(Repository, Vec<Artifact>)>,
    present: &Present<'_>,
) -> (Vec<(Repository, Artifact)>, Vec<SourceRecord>) {
    let good = |artifacts: &[Artifact]| -> BTreeSet<ArtifactId> {
        artifacts.iter().filter(|each| is_parent(each, artifacts, present)).map(|each| each.manifest.id).collect()
    };
    let common = held.iter().map(|(_, artifacts)| good(artifacts)).reduce(|one, other| &one & &other);
    let Some(common) = common else { return (Vec::new(), Vec::new()) };
    let newest = held
        .iter()
        .flat_map(|(_, artifacts)| artifacts)
        .filter(|artifact| common.contains(&artifact.manifest.id))
        .max_by_key(|artifact| (artifact.manifest.as_of(), artifact.manifest.id))
        .map(|artifact| artifact.manifest.id);
    let is_newest = |artifact: &&Artifact| Some(artifact.manifest.id) == newest;
    let line = held.iter().find_map(|(_, artifacts)| chain::line(artifacts.iter().find(is_newest)?, artifacts).ok());
    let line = line.unwrap_or_default().into_iter().map(|link| link.manifest.source.clone()).collect();
    let copy = |(repository, artifacts): (Repository, Vec<Artifact>)| {
        let artifact = artifacts.into_iter().find(|artifact| Some(artifact.manifest.id) == newest)?;
        Some((repository, artifact))
    };
    (held.into_iter().filter_map(copy).collect(), line)
}

/// Whether `artifact` is a dump or increment of the present tables, verified, on a whole and verified chain.
fn is_parent(artifact: &Artifact, artifacts: &[Artifact], present: &Present<'_>) -> bool {
    let manifest = &artifact.manifest;
    let fits = matches!(manifest.verb, Verb::Dump | Verb::Increment)
        && manifest.source.database == present.source.database
        && covers(manifest, present);
    let whole = || chain::line(artifact, artifacts).is_ok_and(|line| line.iter().all(|each| each.verified.is_some()));
    fits && whole()
}

async fn read_sums(repository: &Repository, artifact: &Artifact, key: &KeyRecord) -> Result<KeySums, Failure> {
    let wrong = |what: &str| {
        let message = format!("read the sums of keys of {} in repository {}: {what}", artifact.name, repository.name);
        Failure::new(FailureKind::Integrity, message)
            .hint("`dbagent backup verify` marks a damaged backup; the next increment then builds upon another one.")
    };
    let Some(object) = artifact.manifest.object(ObjectRole::Buckets) else { return Err(wrong("there are none")) };
    let size = u64::from(key.buckets) * STORED_BYTES as u64;
    let range = key.offset..key.offset + size;
    let mut download = repository.storage.get(&object.key, object.version.as_deref(), Some(range)).await?;
    let mut bytes = Vec::with_capacity(key.buckets as usize * STORED_BYTES);
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > size {
            return Err(wrong("they are too long"));
        }
    }
    let sums = KeySums::from_bytes(&bytes).filter(|sums| sums.digest() == key.digest);
    sums.ok_or_else(|| wrong("they are not those of the manifest"))
}
