//! What was signed: every checkpoint of every repository, held against the chain as it is.

use chrono::{DateTime, Utc};

use crate::catalog::{Checkpoints, Repository};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::{Checkpoint, Occasion, Origin, Present, contradictions};
use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::digest::Digest;
use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::ops::audit_verify::Anchor;

/// The checkpoints of every repository.
#[derive(Debug, Default)]
pub struct Signed {
    /// By repository: its name, and its checkpoints.
    by_repository: Vec<(String, Checkpoints)>,
    /// Repositories that could not be read: nothing can be said against what they hold.
    pub troubles: Vec<Finding>,
}

impl Signed {
    /// Reads them all. A repository that cannot be read is a trouble.
    pub async fn read(repositories: &[Repository], unopened: &[(String, Failure)], now: DateTime<Utc>) -> Self {
        let mut signed = Self::default();
        for repository in repositories {
            match repository.checkpoints(CHAIN, now).await {
                Ok(checkpoints) => signed.by_repository.push((repository.name.clone(), checkpoints)),
                Err(error) => signed.trouble(&repository.name, &Failure::from(error)),
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

    fn all(&self) -> impl Iterator<Item = &Checkpoint> {
        self.by_repository.iter().flat_map(|(_, read)| read.stored.iter().map(|stored| &stored.checkpoint))
    }

    /// The places that checkpoints name.
    pub fn places(&self) -> Vec<i64> {
        let mut places: Vec<i64> = self.all().map(|checkpoint| checkpoint.size).collect();
        places.sort_unstable();
        places.dedup();
        places
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.all().count()
    }

    /// The newest place up to which everything was verified, and when.
    pub fn anchor(&self) -> Option<(Anchor, DateTime<Utc>)> {
        let verified = self.all().filter(|checkpoint| checkpoint.occasion == Occasion::Verified);
        let newest = verified.max_by_key(|checkpoint| checkpoint.taken)?;
        Some((Anchor { seq: newest.size, hash: newest.hash? }, newest.taken))
    }

    /// Key of the newest checkpoint.
    pub fn newest(&self) -> Option<String> {
        let stored = self.by_repository.iter().flat_map(|(_, read)| &read.stored);
        stored.max_by_key(|stored| stored.checkpoint.taken).map(|stored| stored.key.to_string())
    }

    /// What contradicts the chain that ends at `size`, one finding of each kind.
    pub fn against(&self, size: i64, origin: &Origin, hash_at: impl Fn(i64) -> Option<Digest>) -> Vec<ChainFinding> {
        let mut findings = Vec::new();
        for (repository, read) in &self.by_repository {
            let signed: Vec<Checkpoint> = read.stored.iter().map(|stored| stored.checkpoint.clone()).collect();
            findings.extend(contradictions(&signed, &Present { size, first: 1, origin }, &hash_at));
            if let Some(fault) = read.faults.first() {
                let count = read.faults.len();
                let message = format!("{count} checkpoints in repository {repository} cannot be believed: {fault}");
                findings.push(ChainFinding::new(FindingKind::CheckpointMissing, message));
            }
        }
        findings.sort_by_key(|finding| (finding.kind, finding.first_bad.seq));
        findings.dedup_by_key(|finding| finding.kind);
        findings
    }
}
