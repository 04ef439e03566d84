//! Carries an artifact from one repository to another: the same bytes, a manifest of its own there, last.
//!
//! Every byte is held against the manifest's digest on its way out and read back where it arrives. An object that lies
//! there already, of the run whose copy broke off, counts only because it is read back too. Nothing is ever overwritten.

use futures_util::FutureExt as _;

use crate::catalog::names::Leased;
use crate::catalog::repository::Place;
use crate::catalog::{Artifact, Identity, Repository};
use crate::host::failpoint::{FailPoint, pass};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::SystemId;
use crate::model::manifest::{Manifest, ObjectRecord, ParentRecord, Verification};
use crate::pipeline::segment::{Packed, Packing, forward};
use crate::steps::hold::Hold;
use crate::steps::{Setting, read_back};
use crate::storage::{PutOptions, Stored, Upload};

/// Where a copy goes, and under which conditions.
pub struct Destination<'a> {
    /// The repository that lacks the artifact.
    pub repository: &'a Repository,
    /// Class there of what had one where it comes from.
    pub storage_class: Option<&'a str>,
    /// System identifiers that the cluster had before.
    pub former_systems: &'a [SystemId],
    /// What an increment builds upon there; absent for a dump.
    pub parent: Option<ParentRecord>,
}

/// Why there is no copy.
#[derive(Debug)]
pub enum Hindrance {
    /// The destination does not do its part now; another try may succeed.
    Destination(Failure),
    /// This artifact can not be copied to that place, now or later: its bytes are wrong or out of reach where they are,
    /// or its name is taken by others where they should go.
    Artifact(Failure),
}

fn there(error: impl Into<Failure>) -> Hindrance {
    Hindrance::Destination(error.into())
}

/// Copies `artifact`, which is in `from`, and gives its manifest there.
pub async fn copy_artifact(
    artifact: &Artifact,
    from: &Repository,
    to: &Destination<'_>,
    setting: &Setting,
) -> Result<Manifest, Hindrance> {
    let (manifest, now) = (&artifact.manifest, setting.clock.now());
    let identity = Identity::new(&manifest.cluster, manifest.source.system_identifier, now);
    to.repository.claim(&identity, to.former_systems).await.map_err(there)?;
    to.repository.term(now).await.map_err(there)?;
    require_free(artifact, to.repository).await?;
    let hold = Hold::take(holds(artifact, from, to), setting).await;
    hold.around(send(artifact, from, to, &hold, setting).boxed()).await
}

/// What no expiry may take meanwhile, and where: what is read, what is written, and what that builds upon.
fn holds(artifact: &Artifact, from: &Repository, to: &Destination<'_>) -> Vec<(Repository, Leased)> {
    let parent = to.parent.as_ref().map(|parent| (to.repository.clone(), Leased::Artifact(parent.id)));
    let read = (from.clone(), Leased::Artifact(artifact.manifest.id));
    let written = (to.repository.clone(), Leased::Name(artifact.name.clone()));
    [read, written].into_iter().chain(parent).collect()
}

async fn send(
    artifact: &Artifact,
    from: &Repository,
    to: &Destination<'_>,
    hold: &Hold,
    setting: &Setting,
) -> Result<Manifest, Hindrance> {
    let manifest = &artifact.manifest;
    let mut objects = Vec::new();
    for object in &manifest.objects {
        setting.require_going_on("go on copying").map_err(there)?;
        objects.push(carry(object, from, to).await?);
        pass(FailPoint::DumpObjectCommitted).map_err(there)?;
    }
    hold.renew().await;
    let level = read_back::read_back(to.repository, &objects, &setting.events).await.map_err(|failure| {
        // What lies there under these names is not this artifact, and stays.
        if failure.kind == FailureKind::Integrity { Hindrance::Artifact(failure) } else { there(failure) }
    })?;
    setting.require_going_on("commit the copy").map_err(there)?;
    let now = setting.clock.now();
    let draft = |place: Place| Manifest {
        objects: objects.clone(),
        parent: to.parent.clone(),
        fencing_token: place.fencing_token,
        catalog: place.position,
        verification: Verification { level, at: now },
        ..manifest.clone()
    };
    let key = artifact.name.manifest().map_err(|error| there(invalid(&error)))?;
    Ok(to.repository.commit(&key, now, draft).await.map_err(there)?.manifest)
}

/// A run that died after it had taken a number in the log may have left the signature of a manifest that never came;
/// that name is used up.
async fn require_free(artifact: &Artifact, repository: &Repository) -> Result<(), Hindrance> {
    let keys = [artifact.name.signature(), artifact.name.manifest()];
    for key in keys {
        let key = key.map_err(|error| there(invalid(&error)))?;
        match repository.storage.head(&key).await {
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(there(error)),
            Ok(_) => {
                let message = format!("copy {} to repository {}: {key} is there", artifact.name, repository.name);
                return Err(Hindrance::Artifact(Failure::new(FailureKind::Failed, message)));
            }
        }
    }
    Ok(())
}

fn invalid(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("name the copy's manifest: {error}"))
}

/// Copies one object. One that is there already is left as it is, for the reading back to judge.
async fn carry(object: &ObjectRecord, from: &Repository, to: &Destination<'_>) -> Result<ObjectRecord, Hindrance> {
    // What is read by every next run has no class where it comes from, and gets none.
    let class = to.storage_class.filter(|_| object.encoding.len() > 1);
    let class = class.filter(|_| to.repository.storage.features().storage_classes).map(str::to_owned);
    let options =
        PutOptions { storage_class: class.clone(), expected_size: Some(object.stored_size), ..PutOptions::default() };
    let upload = to.repository.storage.upload(&object.key, &options).await.map_err(there)?;
    let download = from.storage.get(&object.key, object.version.as_deref(), None).await;
    let download = download.map_err(|error| Hindrance::Artifact(error.into()))?;
    let packing = forward(download, object.stored_size, object.stored_digest);
    let poured = pour(packing.map_err(|error| Hindrance::Artifact(error.into()))?, upload).await;
    let (upload, packed) = poured.map_err(|hindrance| match hindrance {
        Hindrance::Artifact(failure) => {
            let message = format!("copy {} out of repository {}: {}", object.key, from.name, failure.full_message());
            Hindrance::Artifact(Failure::new(failure.kind, message))
        }
        there => there,
    })?;
    let Packed { proof, stored: (size, digest), .. } = packed;
    let stored = match upload.commit(proof, digest, size).await {
        Err(error) if error.is_exists() => Stored::default(),
        other => other.map_err(there)?,
    };
    Ok(ObjectRecord { version: stored.version, storage_class: class, sse: None, ..object.clone() })
}

/// All the bytes, into an upload that is not committed yet. An upload that is dropped on the way aborts itself.
async fn pour(mut packing: Packing, mut upload: Box<dyn Upload>) -> Result<(Box<dyn Upload>, Packed), Hindrance> {
    while let Some(piece) = packing.next().await {
        upload.write(piece).await.map_err(there)?;
    }
    match packing.finish().await {
        Ok(packed) => Ok((upload, packed)),
        Err(error) => {
            let failure = Failure::from(error);
            // The bytes in the source are what the failure is about; an abort that fails too is for expiry to mend.
            if let Err(error) = upload.abort().await {
                tracing::debug!(%error, "cannot abort the upload of a copy");
            }
            Err(Hindrance::Artifact(failure))
        }
    }
}
