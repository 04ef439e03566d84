//! The error of this room: what a caller decides on, with where and why.

use std::error::Error;
use std::fmt;

use crate::model::failure::{Failure, FailureKind};
use crate::storage::{StorageError, StorageErrorKind};

/// What a caller decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CatalogErrorKind {
    /// The repository could not be read or written.
    Storage(StorageErrorKind),
    /// A signature is missing, wrong, or by a key that is not trusted here.
    Signature,
    /// A document is not of its format.
    Malformed,
    /// A document is of a newer format than this version reads.
    NewerFormat,
    /// The repository is older than what was already seen of it.
    RolledBack,
    /// A newer leader has written to the repository.
    Fenced,
    /// The repository belongs to another cluster.
    OtherCluster,
    /// The key that is needed is not configured or cannot be used.
    Key,
}

/// A failed catalog operation: lower-case, fits after "failed to".
#[derive(Debug)]
pub struct CatalogError {
    /// What a caller decides on.
    pub kind: CatalogErrorKind,
    /// What failed, on what, and why.
    pub message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl CatalogError {
    /// An error of `kind`.
    pub fn new(kind: CatalogErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// The same error with its cause.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether the store says that the key is taken.
    pub fn is_exists(&self) -> bool {
        self.kind == CatalogErrorKind::Storage(StorageErrorKind::Exists)
    }

    /// Whether the store says that there is no such object.
    pub fn is_missing(&self) -> bool {
        self.kind == CatalogErrorKind::Storage(StorageErrorKind::Missing)
    }
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for CatalogError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<StorageError> for CatalogError {
    fn from(error: StorageError) -> Self {
        Self::new(CatalogErrorKind::Storage(error.kind), error.message.clone()).because(error)
    }
}

impl From<CatalogError> for Failure {
    fn from(error: CatalogError) -> Self {
        let (kind, hint) = match error.kind {
            CatalogErrorKind::Storage(kind) => return storage_failure(kind, error),
            CatalogErrorKind::Signature => {
                (FailureKind::Integrity, "Check which key signed it, and whether its certificate is trusted here.")
            }
            CatalogErrorKind::Malformed => {
                (FailureKind::Integrity, "Look at the object named; another copy of the repository may have it whole.")
            }
            CatalogErrorKind::NewerFormat => {
                (FailureKind::Failed, "Use the version of dbagent that wrote it, or a newer one.")
            }
            CatalogErrorKind::RolledBack => (
                FailureKind::Integrity,
                "Find out who changed the repository before you trust it; old object versions, if the bucket keeps them, show more.",
            ),
            CatalogErrorKind::Fenced => {
                (FailureKind::LockHeld, "Another agent leads this cluster now; stop one of the two.")
            }
            CatalogErrorKind::OtherCluster => (
                FailureKind::RefusedForSafety,
                "Give each cluster a prefix of its own; after pg_upgrade, list the old system in former_systems.",
            ),
            CatalogErrorKind::Key => {
                (FailureKind::Authentication, "Check encryption.signing_key in dbagent.toml; `dbagent init` makes one.")
            }
        };
        Self::new(kind, error.message.clone()).hint(hint).because(error)
    }
}

fn storage_failure(kind: StorageErrorKind, error: CatalogError) -> Failure {
    let message = error.message.clone();
    Failure::from(StorageError::new(kind, message)).because(error)
}
