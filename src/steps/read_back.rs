//! Reads an artifact's stored bytes back and compares them with what its manifest says.
//!
//! Every byte is read where the store lets it be read; an archived object is judged by what the store knows of it, and
//! the level says so. Wrong bytes are read once more, because a cache on the way may have served them.

use crate::catalog::Repository;
use crate::model::event::Events;
use crate::model::failure::Failure;
use crate::model::manifest::{ObjectRecord, VerificationLevel};
use crate::pipeline::fetch;
use crate::storage::{StorageError, StorageErrorKind};

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
    let meta = repository.storage.head(&object.key).await?;
    if !meta.readable {
        return by_store(repository, object, meta.size);
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

async fn read_whole(repository: &Repository, object: &ObjectRecord) -> Result<(), Failure> {
    let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    Ok(fetch::verify(download, object).await?)
}

fn by_store(repository: &Repository, object: &ObjectRecord, size: u64) -> Result<VerificationLevel, Failure> {
    if size == object.stored_size {
        return Ok(VerificationLevel::StoreChecksum);
    }
    let place = repository.storage.place();
    let message = format!("verify {} in {place}: it has {size} bytes, {} were stored", object.key, object.stored_size);
    Err(StorageError::new(StorageErrorKind::Corrupt, message).into())
}
