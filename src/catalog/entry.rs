//! One entry of the catalog's log: a signed statement, chained to the one before it.
//!
//! The log is the repository's order of events: an artifact was committed, pinned, verified, buried. Its numbers are
//! taken by create-only writes, so two writers can never hold the same one, and each entry names the digest of its
//! predecessor, so none can be removed or replaced without breaking the chain. An entry carries its signature inside
//! it, because one write must take the number and say what it means.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::envelope;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::signature::{Signer, Verifier};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::key::ObjectKey;
use crate::model::manifest::Verification;

const FORMAT: u32 = 1;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Record {
    /// A leader begins its term; entries of earlier terms are refused from here on.
    Term,
    /// An artifact takes its place; its manifest is written right after.
    Commit {
        /// The artifact.
        artifact: ArtifactId,
        /// Key of its manifest.
        manifest: ObjectKey,
        /// SHA-256 of the manifest's bytes.
        manifest_digest: Digest,
        /// SHA-256 of the manifest's detached signature.
        signature_digest: Digest,
    },
    /// An artifact's stored bytes were read back and its signatures checked.
    Verified {
        /// The artifact.
        artifact: ArtifactId,
        /// How, and when.
        verification: Verification,
    },
    /// An artifact's stored bytes were found wrong.
    Damaged {
        /// The artifact.
        artifact: ArtifactId,
        /// What was found.
        reason: String,
    },
    /// An artifact is kept whatever retention says.
    Pin {
        /// The artifact.
        artifact: ArtifactId,
        /// Why.
        reason: String,
    },
    /// An artifact is under retention again.
    Unpin {
        /// The artifact.
        artifact: ArtifactId,
    },
    /// An artifact ceases to exist; its objects are deleted right after.
    Tombstone {
        /// The artifact.
        artifact: ArtifactId,
        /// Why.
        reason: String,
    },
}

/// One entry, as signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Format number of this document.
    pub format: u32,
    /// Its number, from 1.
    pub sequence: u64,
    /// Digest of the stored bytes of the entry before it; absent for the first.
    pub previous: Option<Digest>,
    /// When it was written.
    pub recorded: DateTime<Utc>,
    /// The term of leadership it was written in.
    pub fencing_token: u64,
    /// What happened.
    pub record: Record,
}

impl Entry {
    /// The entry that follows `head` (or the first).
    pub fn following(head: &Head, fencing_token: u64, record: Record, now: DateTime<Utc>) -> Self {
        Self {
            format: FORMAT,
            sequence: head.sequence + 1,
            previous: head.digest,
            recorded: now,
            fencing_token,
            record,
        }
    }

    /// The bytes to store: the entry's text and a signature over exactly that text.
    pub fn seal(&self, signer: &Signer) -> Result<Vec<u8>, CatalogError> {
        let text = serde_json::to_string(self).map_err(malformed)?;
        envelope::seal(text, signer, self.recorded)
    }

    /// Reads stored bytes back, signature checked.
    pub fn unseal(stored: &[u8], verifier: &Verifier, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        let entry: Self = serde_json::from_str(&envelope::unseal(stored, verifier, now)?).map_err(malformed)?;
        if entry.format != FORMAT {
            let message = format!("read a catalog entry of format {}: this version reads {FORMAT}", entry.format);
            return Err(CatalogError::new(CatalogErrorKind::NewerFormat, message));
        }
        Ok(entry)
    }
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> CatalogError {
    CatalogError::new(CatalogErrorKind::Malformed, "read a catalog entry").because(error)
}

/// The end of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Number of the last entry; 0 for an empty log.
    pub sequence: u64,
    /// Digest of its stored bytes.
    pub digest: Option<Digest>,
    /// The highest term seen.
    pub fencing_token: u64,
}

impl Head {
    /// The head after `entry`, stored as `stored`.
    pub fn after(&self, entry: &Entry, stored: &[u8]) -> Self {
        Self {
            sequence: entry.sequence,
            digest: Some(Digest::of(stored)),
            fencing_token: self.fencing_token.max(entry.fencing_token),
        }
    }

    /// Whether `entry` follows this head without a gap.
    pub fn is_followed_by(&self, entry: &Entry) -> bool {
        entry.sequence == self.sequence + 1 && entry.previous == self.digest
    }
}
