//! The newest head of a repository's log that this host ever saw, kept in the state directory.
//!
//! It is a cache with one duty: to notice that a repository went backwards. Losing it loses that notice until the log
//! is read again, and nothing else.

use crate::catalog::entry::Head;
use crate::catalog::repository::Repository;
use crate::host::{FileErrorKind, durable};
use crate::model::failure::with_causes;

/// Largest memory file read, in bytes.
const LIMIT: u64 = 4096;

impl Repository {
    /// The newest head seen, if any. Where that cannot be read, it is said and work goes on: it is rebuilt.
    pub(in crate::catalog) fn recall(&self) -> Option<Head> {
        let path = self.memory.as_ref()?;
        let read = match durable::read_bounded(path, LIMIT) {
            Err(error) if error.kind == FileErrorKind::Missing => return None,
            Err(error) => Err(with_causes(&error)),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| error.to_string()),
        };
        read.inspect_err(|error| {
            tracing::warn!(repository = self.name, file = %path.display(), error, "cannot recall the newest catalog entry");
        })
        .ok()
    }

    /// Remembers `head` if it is the newest seen; another process may have seen a newer one. Where that cannot be written (a full disk), it is said and work goes on: the
    /// memory is a cache, and neither a backup nor a restore must fail for it.
    pub(in crate::catalog) fn remember(&self, head: &Head) {
        let Some(path) = &self.memory else { return };
        if self.recall().is_some_and(|seen| seen.sequence >= head.sequence) {
            return;
        }
        let written = serde_json::to_vec(head)
            .map_err(|error| error.to_string())
            .and_then(|bytes| durable::replace(path, &bytes).map_err(|error| with_causes(&error)));
        if let Err(error) = written {
            tracing::warn!(repository = self.name, error, "cannot remember the newest catalog entry");
        }
    }
}
