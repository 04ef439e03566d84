//! Carries a WAL file from one repository to another: the same bytes, read back against their record on the way.

use chrono::{DateTime, Utc};

use super::store::{Standing, upload};
use crate::catalog::Repository;
use crate::catalog::names::wal as names;
use crate::catalog::wal::WalRecord;
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::wal::WalFile;
use crate::pipeline::segment::forward;

/// Copies `file` as `from` has it into `to`, which must be this cluster's. Errors when `to` holds another file of the
/// name, or when the bytes are not those of the record.
pub async fn copy(file: WalFile, from: &Repository, to: &Repository, now: DateTime<Utc>) -> Result<Standing, Failure> {
    let Some(record) = from.wal_record(file, now).await? else {
        let message = format!("carry {file} from repository {} to {}: it is not there", from.name, to.name);
        return Err(Failure::new(FailureKind::NothingMatches, message));
    };
    if let Some(theirs) = to.wal_record(file, now).await? {
        return same(file, &record, &theirs, from, to);
    }
    let encrypted = names::is_encrypted(&record.object);
    let plain = names::object(file, encrypted, None)?;
    let object = match carry(&record, from, to, &plain).await? {
        true => plain,
        // Bytes without a record, of a push that died: what they are is not known.
        false => {
            let spare = names::object(file, encrypted, Some(rand::random()))?;
            if !carry(&record, from, to, &spare).await? {
                let message = format!("carry {file} to repository {}: {spare} is taken too", to.name);
                return Err(Failure::new(FailureKind::Failed, message));
            }
            spare
        }
    };
    match to.put_wal_record(&WalRecord { object, ..record.clone() }, now).await {
        Ok(()) => Ok(Standing::Stored),
        Err(error) if error.is_exists() => match to.wal_record(file, now).await? {
            Some(theirs) => same(file, &record, &theirs, from, to),
            None => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Copies the bytes to `key`; false when the key is taken.
async fn carry(record: &WalRecord, from: &Repository, to: &Repository, key: &ObjectKey) -> Result<bool, Failure> {
    let download = from.storage.get(&record.object, None, None).await?;
    let packing = forward(download, record.stored_size, record.stored_digest)?;
    let (_, mut uploads) = upload(packing, &[to], key).await?;
    match uploads.pop() {
        Some(Ok(())) => Ok(true),
        Some(Err(error)) if error.is_exists() => Ok(false),
        Some(Err(error)) => Err(error.into()),
        None => Err(Failure::new(FailureKind::Failed, format!("carry {key}: the upload is gone"))),
    }
}

fn same(
    file: WalFile,
    ours: &WalRecord,
    theirs: &WalRecord,
    from: &Repository,
    to: &Repository,
) -> Result<Standing, Failure> {
    if (ours.content_size, ours.content_digest) == (theirs.content_size, theirs.content_digest) {
        return Ok(Standing::AlreadyThere);
    }
    let message = format!(
        "carry {file}: repositories {} and {} hold different files of this name (SHA-256 {} of system {}, {} of system {})",
        from.name,
        to.name,
        ours.content_digest,
        ours.system_identifier,
        theirs.content_digest,
        theirs.system_identifier
    );
    Err(Failure::new(FailureKind::RefusedForSafety, message)
        .hint("Nothing is overwritten. Find out which of the two servers that wrote this timeline is the primary."))
}
