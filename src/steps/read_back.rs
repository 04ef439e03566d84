//! Reads an artifact's stored bytes back and compares them with what its manifest says.
//!
//! Every byte is read where the store lets it be read; an archived object is judged by what the store knows of it, and
//! the level says so. Wrong bytes are read once more, because a cache on the way may have served them.

use crate::catalog::Repository;
use crate::model::event::Events;
use crate::model::failure::Failure;
use crate::model::manifest::{ObjectRecord, VerificationLevel};
use crate::pipeline::fetch;
use crate::storage::{ObjectMeta, StorageError, StorageErrorKind};

/// Checks every object of `objects` in `repository` and gives the weakest level reached.
pub async fn read_back(
    repository: &Repository,
    objects: &[ObjectRecord],
    events: &Events,
) -> Result<VerificationLevel, Failure> {
    let mut level = VerificationLevel::ReadBack;
    for object in objects {
        level = level.min(read_back_object(repository, object, events).await?);
    }
    Ok(level)
}

async fn read_back_object(
    repository: &Repository,
    object: &ObjectRecord,
    events: &Events,
) -> Result<VerificationLevel, Failure> {
    if let Some(meta) = newest(repository, object).await?.filter(|meta| !meta.readable) {
        return by_store(repository, object, &meta);
    }
    match read_whole(repository, object).await {
        Ok(()) => Ok(VerificationLevel::ReadBack),
        Err(first) => {
            let place = repository.storage.place();
            events.note(format!("reading {} in {place} a second time: {}", object.key, first.full_message()));
            read_whole(repository, object).await.map(|()| VerificationLevel::ReadBack)
        }
    }
}

/// What the store says of the object, where its newest version is the recorded one. Somebody who may write can put another
/// version, or a deletion, over ours; ours is still there, and is read by its id.
pub async fn newest(repository: &Repository, object: &ObjectRecord) -> Result<Option<ObjectMeta>, StorageError> {
    match repository.storage.head(&object.key).await {
        Ok(meta) if object.version.is_none() || meta.version == object.version => Ok(Some(meta)),
        Err(error) if object.version.is_none() || !error.is_missing() => Err(error),
        _ => Ok(None),
    }
}

async fn read_whole(repository: &Repository, object: &ObjectRecord) -> Result<(), Failure> {
    let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    Ok(fetch::verify(download, object).await?)
}

/// Whether the store vouches for every object's bytes, by its own checksum or by the version it gave them; sizes alone
/// say nothing of bytes.
pub async fn store_vouches(repository: &Repository, objects: &[ObjectRecord]) -> Result<bool, Failure> {
    for object in objects {
        let meta = repository.storage.head(&object.key).await?;
        let same_version = meta.version.is_some() && meta.version == object.version;
        if meta.digest != Some(object.stored_digest) && !same_version {
            return Ok(false);
        }
    }
    Ok(true)
}

fn by_store(repository: &Repository, object: &ObjectRecord, meta: &ObjectMeta) -> Result<VerificationLevel, Failure> {
    let fault = match meta {
        _ if meta.size != object.stored_size => {
            format!("it has {} bytes, {} were stored", meta.size, object.stored_size)
        }
        _ if meta.digest.is_some_and(|digest| digest != object.stored_digest) => {
            "the store's checksum is not that of what was stored".to_owned()
        }
        _ => return Ok(VerificationLevel::StoreChecksum),
    };
    let message = format!("verify {} in {}: {fault}", object.key, repository.storage.place());
    Err(StorageError::new(StorageErrorKind::Corrupt, message).into())
}
