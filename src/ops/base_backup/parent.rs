//! What an incremental base backup builds upon: the newest whole and verified one that every repository holds.
//!
//! Each repository must be able to restore alone, so a parent that only some of them hold is none.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, ArtifactName, chain};
use crate::model::base::BaseRecord;
use crate::model::failure::Failure;
use crate::model::id::ArtifactId;
use crate::model::lsn::Lsn;
use crate::model::manifest::ParentRecord;
use crate::ops::base_backup::cluster::Cluster;
use crate::ops::base_backup::places::Places;
use crate::steps::holdings::holdings;

/// Links in a chain, at most: every one of them is read by a restore.
const MOST_LINKS: usize = 32;

/// A parent.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    /// Its name.
    pub(super) name: ArtifactName,
    /// What its manifest says of it.
    pub(super) base: BaseRecord,
    /// How a manifest refers to it, by repository.
    records: BTreeMap<String, ParentRecord>,
}

impl Parent {
    /// Finds it, or says, for people, why there is none. A repository that cannot be read is left behind.
    pub(super) async fn find(
        places: &Places,
        cluster: &Cluster,
        now: DateTime<Utc>,
    ) -> Result<Result<Self, String>, Failure> {
        let mut held = Vec::new();
        for place in places.going() {
            match holdings(&place.repository, now).await {
                Ok(artifacts) => held.push(artifacts),
                Err(failure) => place.give_up(failure),
            }
        }
        places.require_one()?;
        Ok(newest(&held, cluster))
    }

    /// Where it begins: from there on the log tells what it may lack.
    pub(super) fn start(&self) -> Lsn {
        self.base.start
    }

    /// How a manifest in the repository `name` refers to it.
    pub(super) fn record(&self, name: &str) -> Option<&ParentRecord> {
        self.records.get(name)
    }
}

fn newest(held: &[Vec<Artifact>], cluster: &Cluster) -> Result<Parent, String> {
    let good = |artifacts: &Vec<Artifact>| -> BTreeSet<ArtifactId> {
        artifacts.iter().filter(|each| is_good(each, artifacts, cluster)).map(|each| each.manifest.id).collect()
    };
    let common = held.iter().map(good).reduce(|one, other| &one & &other).unwrap_or_default();
    let all = || held.iter().flatten().filter(|artifact| common.contains(&artifact.manifest.id));
    let newest = all().max_by_key(|artifact| (artifact.manifest.as_of(), artifact.manifest.id));
    let Some((newest, base)) = newest.and_then(|newest| Some((newest, newest.manifest.base.clone()?))) else {
        return Err("no whole, verified base backup of this cluster is in every repository".to_owned());
    };
    let links = held.iter().find_map(|artifacts| chain::line(newest, artifacts).ok()).map_or(0, |line| line.len());
    if links >= MOST_LINKS {
        return Err(format!("the chain that ends with {} has {links} links", newest.name));
    }
    let copies = all().filter(|artifact| artifact.manifest.id == newest.manifest.id);
    let records = copies.map(|artifact| {
        let record = ParentRecord { id: artifact.manifest.id, manifest_digest: artifact.manifest_digest };
        (artifact.repository.clone(), record)
    });
    Ok(Parent { name: newest.name.clone(), base, records: records.collect() })
}

/// Whether `artifact` is a base backup of this cluster, verified, on a whole and verified chain.
fn is_good(artifact: &Artifact, artifacts: &[Artifact], cluster: &Cluster) -> bool {
    let manifest = &artifact.manifest;
    let ours = manifest.base.is_some() && manifest.source.system_identifier == cluster.system();
    let whole = || chain::line(artifact, artifacts).is_ok_and(|line| line.iter().all(|each| each.verified.is_some()));
    ours && whole()
}
