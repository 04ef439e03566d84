//! What dead runs left behind: uploads never finished, objects never committed, numbers taken and never used.
//!
//! Only what is older than the grace time and under no lease, so that a run that may own it is surely over; and only what
//! our own grammar of names explains. Everything else is somebody else's and stays. A run may commit, or one may be gone on
//! with, between looking and clearing: so both are asked for once more before anything goes.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::inventory::Unfinished;
use crate::catalog::{ArtifactName, CatalogError, Inventory, Repository, names};
use crate::model::key::ObjectKey;
use crate::steps::bury;
use crate::storage::{self, StorageErrorKind};

/// What dead runs left in one repository.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Uploads begun and not finished.
    pub uploads: Vec<storage::Unfinished>,
    /// Objects of artifacts that were never committed, or are buried, and of WAL that was never recorded.
    pub orphans: Vec<ObjectKey>,
    /// Commits without manifest.
    pub commits: Vec<Unfinished>,
    /// Manifests whose artifacts are buried.
    pub half_buried: Vec<ObjectKey>,
    /// Leases of runs that died.
    pub leases: Vec<ObjectKey>,
    /// Names that are not ours: reported, never deleted.
    pub foreign: Vec<String>,
}

impl Leftovers {
    /// Looks for what is older than `grace`.
    pub(super) async fn find(
        repository: &Repository,
        inventory: &Inventory,
        grace: Duration,
        now: DateTime<Utc>,
    ) -> Result<Self, CatalogError> {
        let since = now - TimeDelta::from_std(grace).unwrap_or(TimeDelta::MAX);
        let mut found = Self::default();
        let uploads = repository.storage.unfinished().await?;
        for upload in uploads.into_iter().filter(|upload| upload.begun < since) {
            match upload.key.parse() {
                Ok(key) if names::is_ours(&key) => found.uploads.push(upload),
                _ => found.foreign.push(upload.key),
            }
        }
        found.commits = inventory.unfinished.iter().filter(|commit| commit.recorded < since).cloned().collect();
        found.half_buried = inventory.half_buried.clone();
        found.find_orphans(repository, inventory, since).await?;
        let wal = repository.wal_leftovers(since, now).await?;
        found.orphans.extend(wal.objects);
        found.foreign.extend(wal.foreign);
        // Only now: whoever has stored anything of what was found had leased its name before.
        let leases = repository.leases(now).await?;
        found.spare(&leases.making);
        found.leases = leases.over;
        Ok(found)
    }

    /// Takes what belongs to the artifacts `names` out.
    fn spare(&mut self, names: &BTreeSet<ArtifactName>) {
        let goes = |key: &ObjectKey| ArtifactName::of_object(key).is_none_or(|name| !names.contains(&name));
        self.uploads.retain(|upload| upload.key.parse().is_ok_and(|key| goes(&key)));
        self.orphans.retain(goes);
        self.commits.retain(|commit| goes(&commit.manifest));
    }

    /// Takes out what became somebody's since it was found.
    async fn spare_what_came_alive(&mut self, repository: &Repository, now: DateTime<Utc>) -> Result<(), CatalogError> {
        // The leases first: a run gives its lease back only when its manifest is there.
        let mut alive = repository.leases(now).await?.making;
        let found = self.orphans.iter().chain(self.commits.iter().map(|commit| &commit.manifest));
        let owners: BTreeSet<ArtifactName> = found.filter_map(ArtifactName::of_object).collect();
        for name in owners {
            let manifest = name.manifest()?;
            match repository.storage.head(&manifest).await {
                Ok(_) if self.half_buried.contains(&manifest) => {}
                Ok(_) => drop(alive.insert(name)),
                Err(error) if error.kind == StorageErrorKind::Missing => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.spare(&alive);
        Ok(())
    }

    /// Objects whose names are those of an artifact that does not exist. A manifest that was refused still counts as one;
    /// one whose artifact is buried does not.
    async fn find_orphans(
        &mut self,
        repository: &Repository,
        inventory: &Inventory,
        since: DateTime<Utc>,
    ) -> Result<(), CatalogError> {
        let mut standing: BTreeSet<ArtifactName> =
            inventory.artifacts.iter().map(|artifact| artifact.name.clone()).collect();
        let mut old = Vec::new();
        for folder in repository.storage.folders().await? {
            if !names::may_hold_artifacts(&folder) {
                continue;
            }
            let mut from = None;
            loop {
                let page = repository.storage.list(&format!("{folder}/"), from.as_ref()).await?;
                self.foreign.extend(page.foreign);
                for object in page.objects {
                    match ArtifactName::of_manifest(&object.key) {
                        Some(_) if inventory.half_buried.contains(&object.key) => {}
                        Some(name) => drop(standing.insert(name)),
                        None if object.modified < since => old.push(object.key),
                        None => {}
                    }
                }
                match page.next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
        }
        for key in old {
            match ArtifactName::of_object(&key) {
                Some(name) if standing.contains(&name) => {}
                Some(_) if names::is_ours(&key) => self.orphans.push(key),
                _ => self.foreign.push(key.to_string()),
            }
        }
        Ok(())
    }

    /// How many there are, without what is not ours.
    pub fn count(&self) -> usize {
        self.uploads.len() + self.orphans.len() + self.commits.len() + self.half_buried.len() + self.leases.len()
    }

    /// Clears them away. Gives how many there were.
    pub async fn clear(mut self, repository: &Repository, now: DateTime<Utc>) -> Result<u64, CatalogError> {
        self.spare_what_came_alive(repository, now).await?;
        let count = self.count();
        for upload in &self.uploads {
            repository.storage.abort(upload).await?;
        }
        for commit in &self.commits {
            let reason = "its run never finished";
            bury::bury_commit(repository, commit.artifact, &commit.manifest, reason, now).await?;
        }
        for manifest in &self.half_buried {
            bury::delete_manifest(repository, manifest).await?;
        }
        for key in self.orphans.iter().chain(&self.leases) {
            repository.storage.delete(key, None).await?;
        }
        Ok(count as u64)
    }
}
