//! Makes an artifact cease to exist in one repository: tombstone, manifest, then everything else.
//!
//! In this order a crash leaves orphans, never a listed artifact that cannot be restored. Doing it again goes on where
//! it stopped: deleting what is gone is no error.

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, CatalogError, Record, Repository};
use crate::host::failpoint::{self, FailPoint};
use crate::model::id::ArtifactId;
use crate::model::key::ObjectKey;
use crate::storage::StorageError;

/// Buries `artifact` for `reason`. Gives the bytes freed.
pub async fn bury(
    repository: &Repository,
    artifact: &Artifact,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<u64, CatalogError> {
    let manifest = artifact.name.manifest()?;
    bury_commit(repository, artifact.manifest.id, &manifest, reason, now).await?;
    for object in &artifact.manifest.objects {
        // Never by version: who prunes may only hide an object in a versioned bucket, its lifecycle rules remove it.
        repository.storage.delete(&object.key, None).await?;
        reach(FailPoint::ExpireObjectDeleted)?;
    }
    Ok(artifact.manifest.stored_size())
}

/// Buries a commit of which only the number, and perhaps the manifest, was written.
pub async fn bury_commit(
    repository: &Repository,
    artifact: ArtifactId,
    manifest: &ObjectKey,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), CatalogError> {
    let tombstone = Record::Tombstone { artifact, reason: reason.to_owned() };
    repository.record(tombstone, now).await?;
    reach(FailPoint::ExpireTombstonePut)?;
    delete_manifest(repository, manifest).await
}

/// What follows the tombstone: the manifest goes, and its signature. Everything else is an orphan from then on.
pub async fn delete_manifest(repository: &Repository, manifest: &ObjectKey) -> Result<(), CatalogError> {
    repository.storage.delete(manifest, None).await?;
    reach(FailPoint::ExpireManifestDeleted)?;
    repository.storage.delete(&manifest.with_suffix(".sig")?, None).await?;
    Ok(())
}

fn reach(point: FailPoint) -> Result<(), CatalogError> {
    failpoint::reach(point).map_err(|error| {
        let message = "pass a fail point while deleting";
        CatalogError::from(StorageError::new(crate::storage::StorageErrorKind::Other, message).because(error))
    })
}
