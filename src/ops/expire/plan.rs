//! What an expiry would do to the artifacts: pure, from what the repository holds, policies and `now`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::{Artifact, Inventory, names};
use crate::model::base::BaseRecord;
use crate::model::id::ArtifactId;
use crate::model::lsn::Timeline;
use crate::model::manifest::Manifest;
use crate::model::retention::{self, Candidate, Policy, Reason};
use crate::model::wal::SegmentName;
use crate::model::wal_retention::{Need, Place, Until, WalRule};
use crate::steps::wal::Archive;

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

/// What one repository holds, read at one time.
pub(super) struct Contents {
    pub(super) inventory: Inventory,
    pub(super) leased: BTreeSet<ArtifactId>,
    pub(super) archive: Archive,
}

/// Decides for every artifact of one repository, whose base backups may find their log in any of `archives`. `policies` is
/// by job; a job without one keeps for ever.
pub(super) fn decide(
    contents: &Contents,
    archives: &[&Archive],
    policies: &BTreeMap<String, Policy>,
    grace: Duration,
    now: DateTime<Utc>,
) -> Vec<Fate> {
    let artifacts = &contents.inventory.artifacts;
    let candidates: Vec<Candidate> = artifacts.iter().map(|artifact| contents.candidate(artifact, archives)).collect();
    let decisions = retention::decide(&candidates, &contents.archive.timelines, policies, grace, now);
    let fate = |(artifact, decision): (&Artifact, retention::Decision)| Fate {
        artifact: artifact.clone(),
        keep: decision.keep,
        reason: decision.reason,
    };
    artifacts.iter().zip(decisions).map(fate).collect()
}

/// What decides over the WAL, once it is decided which base backups stay.
pub(super) fn wal_rule(contents: &Contents, fates: &[Fate], grace: Duration, now: DateTime<Utc>) -> WalRule {
    let kept = fates.iter().filter(|fate| fate.keep).map(|fate| &fate.artifact.manifest);
    let need = |manifest: &Manifest, base: &BaseRecord| {
        let segment = contents.archive.end_of(manifest.source.system_identifier, base.timeline);
        let position = |segment: SegmentName| Some(Until { segment, position: segment.start(base.segment_size()?)? });
        let until = segment.and_then(position);
        Some(Need { id: manifest.id, place: place(base), first: base.segments()?.first, until })
    };
    let bases: Vec<_> = kept.filter_map(|manifest| Some((manifest, manifest.base.as_ref()?))).collect();
    let needs: Vec<Need> = bases.iter().filter_map(|(manifest, base)| need(manifest, base)).collect();
    WalRule {
        // One whose need cannot be told may need anything.
        base_refused: contents.inventory.refused.iter().any(names::is_of_base) || needs.len() < bases.len(),
        needs,
        timelines: contents.archive.timelines.clone(),
        grace_begins: before(now, grace),
    }
}

/// `grace` before `now`.
pub(super) fn before(now: DateTime<Utc>, grace: Duration) -> DateTime<Utc> {
    let grace = TimeDelta::from_std(grace).ok();
    grace.and_then(|grace| now.checked_sub_signed(grace)).unwrap_or(DateTime::<Utc>::MIN_UTC)
}

fn place(base: &BaseRecord) -> Place {
    Place { timeline: base.timeline, stop: base.stop }
}

impl Contents {
    fn candidate(&self, artifact: &Artifact, archives: &[&Archive]) -> Candidate {
        let manifest = &artifact.manifest;
        Candidate {
            id: manifest.id,
            job: manifest.job.clone(),
            system: manifest.source.system_identifier,
            finished: manifest.finished,
            verified: artifact.verified.is_some(),
            pinned: artifact.pinned.is_some(),
            leased: self.leased.contains(&manifest.id),
            parent: manifest.parent.as_ref().map(|parent| parent.id),
            leads_to: manifest.base.as_ref().map(|base| self.leads_to(base, archives)),
        }
    }

    /// The timelines on whose way all of the log of `base` itself is stored somewhere.
    fn leads_to(&self, base: &BaseRecord, archives: &[&Archive]) -> BTreeSet<Timeline> {
        let Some((log, size)) = base.segments().zip(base.segment_size()) else { return BTreeSet::new() };
        let is_held = |segment| archives.iter().any(|archive| archive.holds(segment));
        self.archive.timelines.followed_from(place(base), log, size, is_held)
    }
}
