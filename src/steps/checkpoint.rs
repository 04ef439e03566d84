//! Makes checkpoints of the audit chain: what the database says on one snapshot, signed into every repository, each after
//! the one that lies there.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::{Repository, StoredCheckpoint, StoredSeal};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::{Checkpoint, FORMAT, Occasion, Origin};
use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::audit::profile::Profiles;
use crate::model::digest::Digest;
use crate::model::failure::Failure;
use crate::model::outcome::RepositoryOutcome;
use crate::postgres::audit::{ChainSnapshot, schema};
use crate::steps::Setting;

/// What every checkpoint of an agent says.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// Digest of the configuration.
    pub configuration: Digest,
    /// Until when checkpoints are locked, where the store can.
    pub locked_until: Option<DateTime<Utc>>,
    /// The formulas that are configured for older rows.
    pub profiles: Profiles,
}

/// What the database says on a snapshot.
#[derive(Debug)]
pub struct Statement<'a> {
    snapshot: &'a ChainSnapshot,
    terms: &'a Terms,
    origin: Origin,
    schema: Digest,
}

impl<'a> Statement<'a> {
    /// Asks what is the same for every repository.
    pub async fn of(snapshot: &'a ChainSnapshot, terms: &'a Terms) -> Result<Self, Failure> {
        let schema = schema::fingerprint(snapshot.session()).await?;
        let origin = Origin { cluster: terms.cluster.clone(), ..snapshot.origin.clone() };
        Ok(Self { snapshot, terms, origin, schema })
    }

    /// Which database.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Digest over the chain's protection.
    pub fn schema(&self) -> Digest {
        self.schema
    }

    /// What changed in the protection since `before` was signed: the digest alone tells that, not what.
    pub fn schema_change(&self, before: &Checkpoint) -> Option<ChainFinding> {
        let signed = before.taken.format("%Y-%m-%dT%H:%M:%SZ");
        let message = format!(
            "tables, triggers, functions, owners or privileges of the chain are not those that the checkpoint of {signed} has signed"
        );
        let finding = ChainFinding::new(FindingKind::SchemaChanged, message);
        let differs = finding.differs(Some(before.schema.to_string()), Some(self.schema.to_string()));
        (before.schema != self.schema).then_some(differs)
    }

    /// That other formulas for older rows are pinned than `before` has signed of a chain with rows.
    pub fn profile_change(&self, before: &Checkpoint) -> Option<ChainFinding> {
        let now = self.snapshot.pinned.profiles.digest();
        let signed = before.taken.format("%Y-%m-%dT%H:%M:%SZ");
        let message = format!("other formulas for older rows are pinned than the checkpoint of {signed} has signed");
        let text = |digest: Option<Digest>| Some(digest.map_or("none".to_owned(), |digest| digest.to_string()));
        let finding = ChainFinding::new(FindingKind::SchemaChanged, message).differs(text(before.profiles), text(now));
        (before.size > 0 && before.profiles != now).then_some(finding)
    }

    /// Partitions with rows that `before` has signed and that are gone, unless `seals` say that they may be.
    pub fn lost_partitions(&self, before: &Checkpoint, seals: &[StoredSeal]) -> Option<ChainFinding> {
        let sealed = |name: &String| seals.iter().any(|stored| stored.seal.partition.name == *name);
        let lost: Vec<_> = self.gone_since(before).filter(|(name, _)| !sealed(name)).collect();
        if lost.is_empty() {
            return None;
        }
        let names: Vec<&str> = lost.iter().map(|(name, _)| name.as_str()).collect();
        let rows: u64 = lost.iter().map(|(_, rows)| **rows).sum();
        let message = format!("partitions are gone without a seal, and {rows} rows with them: {}", names.join(", "));
        let mut finding = ChainFinding::new(FindingKind::UnsealedRemoval, message);
        finding.first_bad.partition = names.first().map(|name| (*name).to_owned());
        finding.bad_rows = rows;
        Some(finding)
    }

    /// Partitions with rows that `before` has signed and that are gone.
    pub fn gone_since<'b>(&'b self, before: &'b Checkpoint) -> impl Iterator<Item = (&'b String, &'b u64)> {
        let here = |name: &String| self.snapshot.partitions.iter().any(|partition| partition.table.name == *name);
        before.partitions.iter().filter(move |(name, rows)| **rows > 0 && !here(name))
    }

    /// Signs it into `repository`, after `before`, the newest there.
    pub async fn sign_into(
        &self,
        repository: &Repository,
        before: Option<&StoredCheckpoint>,
        occasion: &Occasion,
        setting: &Setting,
    ) -> Result<Checkpoint, Failure> {
        let now = setting.clock.now();
        let partitions = self.partitions(before.map(|before| &before.checkpoint)).await?;
        let head = self.snapshot.head;
        let restored = matches!(occasion, Occasion::Restored { .. });
        let checkpoint = Checkpoint {
            format: FORMAT,
            chain: CHAIN.to_owned(),
            occasion: occasion.clone(),
            incarnation: before.map_or(0, |before| before.checkpoint.incarnation) + u32::from(restored),
            size: head.map_or(0, |head| head.seq),
            hash: head.and_then(|head| head.hash),
            partitions,
            origin: self.origin.clone(),
            schema: self.schema,
            profiles: self.snapshot.pinned.profiles.digest(),
            configuration: self.terms.configuration,
            taken: now,
            previous: before.map(|before| before.digest),
        };
        setting.require_going_on("sign a checkpoint")?;
        repository.put_checkpoint(&checkpoint, self.terms.locked_until, now).await?;
        Ok(checkpoint)
    }

    /// Rows by partition: those that `before` counted and those that came after. Counting from the beginning is for the
    /// first checkpoint, and for one that follows a chain that was longer.
    async fn partitions(&self, before: Option<&Checkpoint>) -> Result<BTreeMap<String, u64>, Failure> {
        let size = self.snapshot.head.map_or(0, |head| head.seq);
        let before = before.filter(|before| before.size <= size);
        let mut counts = self.snapshot.counts_since(before.map_or(0, |before| before.size)).await?;
        for (name, rows) in before.map(|before| before.partitions.clone()).unwrap_or_default() {
            if let Some(count) = counts.get_mut(&name) {
                *count += rows;
            }
        }
        Ok(counts)
    }
}

/// What became of a repository in a run.
pub fn repository_outcome(repository: &str, error: Option<&Failure>) -> RepositoryOutcome {
    RepositoryOutcome { repository: repository.to_owned(), error: error.map(Failure::full_message), stored_bytes: 0 }
}
