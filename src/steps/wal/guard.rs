//! Looks through a segment that a copy is about to replay for what would reach out of the copy: tablespaces that are made
//! in directories of somebody else.

use std::path::Path;

use crate::model::failure::{Failure, FailureKind};
use crate::model::wal::SegmentName;
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_tablespaces::{TablespaceMade, tablespace_made};
use crate::steps::wal::records::each_record;

/// Errors where replaying `segment`, which is the file `path`, in the data directory `copy` would write into a tablespace
/// that somebody else uses.
pub fn require_within(segment: SegmentName, path: &Path, copy: &Path) -> Result<(), Failure> {
    let unread = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, format!("look through {segment} before it is replayed")).because(error)
    };
    let directory = DataDirectory::read(copy).map_err(|error| unread(error.into()))?;
    let made = tablespaces(segment, path, &directory).map_err(|error| unread(error.into()))?;
    match made.iter().find(|made| made.is_in_use(directory.major, copy)) {
        None => Ok(()),
        Some(stray) => {
            let message = format!(
                "replay {segment}: it makes the tablespace {} at {}, which is in use; replaying it would write into those \
                 files",
                stray.oid,
                stray.path.display()
            );
            Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
                "Recover on another host, to a moment before that, or from a base backup made after it (--backup). Is the \
                 cluster gone that used the directory? Empty it first.",
            ))
        }
    }
}

/// Those that `segment` makes.
fn tablespaces(segment: SegmentName, path: &Path, directory: &DataDirectory) -> std::io::Result<Vec<TablespaceMade>> {
    let mut found = Vec::new();
    each_record(segment, path, directory, &mut |record| found.extend(tablespace_made(&record).ok().flatten()))?;
    Ok(found)
}
