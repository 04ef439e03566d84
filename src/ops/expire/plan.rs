//! What an expiry would do: pure, from inventories, policies and `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, Inventory};
use crate::model::id::ArtifactId;
use crate::model::retention::{self, Candidate, Policy, Reason};

/// What is to become of one artifact in one repository.
#[derive(Clone, Debug)]
pub struct Fate {
    /// The artifact.
    pub artifact: Artifact,
    /// Whether it stays.
    pub keep: bool,
    /// Why.
    pub reason: Reason,
}

/// Decides for every artifact of one repository. `policies` is by job; a job without one keeps for ever.
pub fn decide(
    inventory: &Inventory,
    leased: &BTreeSet<ArtifactId>,
    policies: &BTreeMap<String, Policy>,
    grace: Duration,
    now: DateTime<Utc>,
) -> Vec<Fate> {
    let candidates: Vec<Candidate> = inventory.artifacts.iter().map(|artifact| candidate(artifact, leased)).collect();
    let decisions = retention::decide(&candidates, policies, grace, now);
    let fate = |(artifact, decision): (&Artifact, retention::Decision)| Fate {
        artifact: artifact.clone(),
        keep: decision.keep,
        reason: decision.reason,
    };
    inventory.artifacts.iter().zip(decisions).map(fate).collect()
}

fn candidate(artifact: &Artifact, leased: &BTreeSet<ArtifactId>) -> Candidate {
    let manifest = &artifact.manifest;
    Candidate {
        id: manifest.id,
        job: manifest.job.clone(),
        system: manifest.source.system_identifier,
        finished: manifest.finished,
        verified: artifact.verified.is_some(),
        pinned: artifact.pinned.is_some(),
        leased: leased.contains(&manifest.id),
        parent: manifest.parent.as_ref().map(|parent| parent.id),
    }
}
