//! The error of this room: what a caller decides on, with where and why.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use crate::model::failure::{Failure, FailureKind};

/// What a caller decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    /// There is no such object (or bucket, or directory).
    Missing,
    /// The key is taken.
    Exists,
    /// May go away by itself; worth another try.
    Transient,
    /// The store refused the login or the right.
    Denied,
    /// The login ran out and could not be renewed.
    Expired,
    /// The object must be thawed before it can be read.
    Archived,
    /// Bytes are not what they must be.
    Corrupt,
    /// No room left.
    Full,
    /// Anything else.
    Other,
}

/// A failed storage operation: lower-case, fits after "failed to".
#[derive(Debug)]
pub struct StorageError {
    /// What a caller decides on.
    pub kind: StorageErrorKind,
    /// What was tried, on what, and what came back.
    pub message: String,
    /// How long the store asks to be left alone, where it says so.
    pub retry_after: Option<Duration>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// An error of `kind`.
    pub fn new(kind: StorageErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None, source: None }
    }

    /// The same error with its cause.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Whether there is no such object.
    pub fn is_missing(&self) -> bool {
        self.kind == StorageErrorKind::Missing
    }

    /// Whether the key is taken.
    pub fn is_exists(&self) -> bool {
        self.kind == StorageErrorKind::Exists
    }

    /// Whether another try may succeed.
    pub fn is_transient(&self) -> bool {
        self.kind == StorageErrorKind::Transient
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        let (kind, hint) = match error.kind {
            StorageErrorKind::Missing => {
                (FailureKind::NothingMatches, "Check the repository's url, and that the bucket or directory is there.")
            }
            StorageErrorKind::Exists => {
                (FailureKind::RefusedForSafety, "Nothing stored is ever overwritten; find out what wrote it.")
            }
            StorageErrorKind::Transient => (FailureKind::Failed, "The store did not answer as it should; try again."),
            StorageErrorKind::Expired => {
                (FailureKind::Authentication, "The credentials have expired; renew them and run it again.")
            }
            StorageErrorKind::Denied => {
                (FailureKind::Authentication, "Check the credentials and the rights of their role.")
            }
            StorageErrorKind::Archived => (
                FailureKind::Failed,
                "The object is in an archive class and must be thawed first: `dbagent restore` asks for that.",
            ),
            StorageErrorKind::Corrupt => {
                (FailureKind::Integrity, "Use another copy: `dbagent backup list` shows where there is one.")
            }
            StorageErrorKind::Full => {
                (FailureKind::Failed, "Free some room there; the next run goes on without a restart.")
            }
            StorageErrorKind::Other => return Self::new(FailureKind::Failed, error.message.clone()).because(error),
        };
        Self::new(kind, error.message.clone()).hint(hint).because(error)
    }
}
