//! The newest head of a repository's log that this host ever saw, kept in the state directory.
//!
//! It is a cache with one duty: to notice that a repository went backwards. Losing it loses that notice until the log
//! is read again, and nothing else.

use crate::catalog::entry::Head;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::repository::Repository;
use crate::host::{FileErrorKind, durable};
use crate::model::failure::with_causes;
use crate::storage::StorageErrorKind;

/// Largest memory file read, in bytes.
const LIMIT: u64 = 4096;

impl Repository {
    /// The newest head seen, if any.
    pub(in crate::catalog) fn recall(&self) -> Result<Option<Head>, CatalogError> {
        let Some(path) = &self.memory else { return Ok(None) };
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            let message = format!("read {}: delete it if it is damaged, it is rebuilt", path.display());
            CatalogError::new(CatalogErrorKind::Storage(StorageErrorKind::Other), message).because(error)
        };
        match durable::read_bounded(path, LIMIT) {
            Err(error) if error.kind == FileErrorKind::Missing => Ok(None),
            Err(error) => Err(failed(error.into())),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| failed(error.into())),
        }
    }

    /// Remembers `head` if it is the newest seen; another process may have seen a newer one. Where that cannot be written (a full disk), it is said and work goes on: the
    /// memory is a cache, and neither a backup nor a restore must fail for it.
    pub(in crate::catalog) fn remember(&self, head: &Head) {
        let Some(path) = &self.memory else { return };
        if self.recall().is_ok_and(|seen| seen.is_some_and(|seen| seen.sequence >= head.sequence)) {
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
