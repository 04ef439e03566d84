//! Why bytes did not get through: what a verb decides on.
//!
//! Lower-case fragments that fit after "failed to".

use std::io;

use super::archive::ArchiveError;
use super::gzip::Abandoned;
use super::openpgp::OpenPgpError;
use crate::host::SourceError;
use crate::model::key::ObjectKey;
use crate::storage::StorageError;

/// Why bytes did not get through.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The source ended badly or could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The source is not the archive it should be.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Keys or messages.
    #[error(transparent)]
    OpenPgp(#[from] OpenPgpError),
    /// Every destination failed; each with its error.
    #[error("store it anywhere: {}", join(.0))]
    NoDestination(Vec<(String, StorageError)>),
    /// Stored bytes could not be fetched.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// Stored bytes are not those that were stored.
    #[error("read {key}: {what}")]
    Corrupt {
        /// The object.
        key: ObjectKey,
        /// What differs.
        what: String,
    },
    /// An object's encodings are in an order that nothing writes.
    #[error("read {0}: its encodings are unknown in this order")]
    UnknownEncoding(ObjectKey),
    /// An object is encrypted and no keys were given.
    #[error("read {0}: it is encrypted, and no secret key was given")]
    NoKeys(ObjectKey),
    /// It was stopped from outside.
    #[error("finish: it was stopped")]
    Stopped,
    /// The threads could not be started.
    #[error("start the threads of the pipeline")]
    Threads(#[source] io::Error),
    /// One part gave up because another did; the other's error is the one that tells.
    #[error(transparent)]
    Abandoned(#[from] Abandoned),
}

fn join(errors: &[(String, StorageError)]) -> String {
    errors.iter().map(|(name, error)| format!("{name}: {error}")).collect::<Vec<_>>().join("; ")
}
