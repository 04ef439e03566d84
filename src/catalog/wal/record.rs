//! The signed record of one archived WAL file: what its bytes are and which object holds them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::names::wal::WalKey;
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::model::lsn::SystemId;
use crate::model::timeline::TimelineSwitch;
use crate::model::wal::WalFile;

const FORMAT: u32 = 1;

/// What is recorded of a stored WAL file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRecord {
    /// Format number of this document.
    pub format: u32,
    /// The file.
    pub name: WalFile,
    /// The cluster it is of.
    pub system_identifier: SystemId,
    /// Where its bytes are.
    pub object: ObjectKey,
    /// Size of the file.
    pub content_size: u64,
    /// SHA-256 of the file: decides whether another file of this name is the same.
    pub content_digest: Digest,
    /// Size of the object.
    pub stored_size: u64,
    /// SHA-256 of the object.
    pub stored_digest: Digest,
    /// When it was stored.
    pub recorded: DateTime<Utc>,
    /// When the server last wrote to it, by that host's clock; earlier versions did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub written: Option<DateTime<Utc>>,
    /// Whether it is of a server that received it, and did not write it: `written` is then the newest end of a transaction
    /// in it, and absent where none ends.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub received: bool,
    /// Version of dbagent that stored it.
    pub agent_version: String,
    /// Of a history: what it says, so that the tree of timelines is known without a key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<TimelineSwitch>,
    /// Fields that a later version wrote; kept, and signed with the rest.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

impl WalRecord {
    /// The number of the format that this version writes.
    pub const FORMAT: u32 = FORMAT;

    /// Up to when everything that was acknowledged as committed is in this segment or in those before it: the server writes
    /// a segment's end before it flushes what follows, and acknowledges a commit after that flush. What is not waited for
    /// (`synchronous_commit = off`) may be acknowledged up to three `wal_writer_delay` earlier than it is written. When it was
    /// stored would be too late where archiving lags: what was committed meanwhile is in segments that are not stored yet.
    /// Nothing where only the segments before it can tell.
    pub fn covers_until(&self) -> Option<DateTime<Utc>> {
        match (self.written, self.received) {
            (Some(written), _) => Some(written.min(self.recorded)),
            (None, received) => (!received).then_some(self.recorded),
        }
    }

    pub(super) fn text(&self) -> Result<String, CatalogError> {
        serde_json::to_string(self)
            .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "write a WAL record").because(error))
    }

    /// Reads a record whose signature was checked; it must be that of `file`.
    pub(super) fn read(text: &str, file: WalFile) -> Result<Self, CatalogError> {
        let malformed = |what: String| CatalogError::new(CatalogErrorKind::Malformed, what);
        let number: Numbered = serde_json::from_str(text)
            .map_err(|error| malformed(format!("read the record of {file}")).because(error))?;
        if number.format != FORMAT {
            let message =
                format!("read the record of {file}: its format is {}, this version reads {FORMAT}", number.format);
            return Err(CatalogError::new(CatalogErrorKind::NewerFormat, message));
        }
        let record: Self = serde_json::from_str(text)
            .map_err(|error| malformed(format!("read the record of {file}")).because(error))?;
        let of_file = record.name == file && WalKey::of(&record.object) == Some(WalKey::Object(file));
        match of_file {
            true => Ok(record),
            false => Err(malformed(format!("believe the record of {file}: it is that of {}", record.name))),
        }
    }
}

#[derive(Deserialize)]
struct Numbered {
    format: u32,
}
