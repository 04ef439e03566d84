//! Whether the keys at hand open a backup: asked before anybody relies on it.

use crate::catalog::{Artifact, Repository};
use crate::model::event::Events;
use crate::model::failure::Failure;
use crate::model::manifest::{Encoding, ObjectRecord};
use crate::pipeline::openpgp::DecryptionKeys;
use crate::pipeline::{PipelineError, fetch};
use crate::steps::read_back::newest;

/// Errors, as reading would, where something of `artifacts` is encrypted and there are no keys at all.
pub fn require_keys(artifacts: &[Artifact], keys: Option<&DecryptionKeys>) -> Result<(), Failure> {
    match (artifacts.iter().find_map(encrypted), keys) {
        (Some(object), None) => Err(PipelineError::NoKeys(object.key.clone()).into()),
        _ => Ok(()),
    }
}

/// Errors, as reading would, unless `keys` open one object of each of `artifacts`; all of one are encrypted to the same keys.
/// Reads the beginning of the smallest. Where the store has it archived, that is told, and nothing is tried.
pub async fn require_openable(
    repository: &Repository,
    artifacts: &[Artifact],
    keys: Option<&DecryptionKeys>,
    events: &Events,
) -> Result<(), Failure> {
    require_keys(artifacts, keys)?;
    for (artifact, object) in artifacts.iter().filter_map(|artifact| Some((artifact, encrypted(artifact)?))) {
        if newest(repository, object).await?.is_some_and(|meta| !meta.readable) {
            let name = &artifact.name;
            events.note(format!(
                "{name} is archived: a restore waits hours for it, and whether the key opens it was not tried"
            ));
            continue;
        }
        let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
        drop(fetch::open(download, object, keys).await?);
    }
    Ok(())
}

/// The smallest object that is encrypted.
fn encrypted(artifact: &Artifact) -> Option<&ObjectRecord> {
    let is_encrypted = |object: &&ObjectRecord| object.encoding.iter().any(|each| matches!(each, Encoding::OpenPgp));
    artifact.manifest.objects.iter().filter(is_encrypted).min_by_key(|object| object.stored_size)
}
