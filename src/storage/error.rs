//! The error of this room: what a caller decides on, with where and why.

use std::error::Error;
use std::fmt;
use std::time::Duration;

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
