//! The manifest: the signed JSON that makes an artifact exist, as values.
//!
//! Format 1. A reader takes unknown fields and refuses an unknown format number. The stored bytes are what is signed
//! and are never made again from these values, so unknown fields survive. Holds no row data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::digest::{Digest, TableSum};
use crate::model::id::{ArtifactId, RunId};
use crate::model::key::ObjectKey;
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::table::QualifiedTable;
use crate::model::verb::Verb;

/// The format number this version writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// One artifact in one repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Format number of this document.
    pub format: u32,
    /// The artifact; the same in every repository.
    pub id: ArtifactId,
    /// The run that made it.
    pub run: RunId,
    /// The verb that made it.
    pub verb: Verb,
    /// The job that made it.
    pub job: String,
    /// The plan the job is part of.
    pub plan: String,
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// Version of the agent that made it.
    pub agent_version: String,
    /// When the run began.
    pub started: DateTime<Utc>,
    /// When the last object was complete.
    pub finished: DateTime<Utc>,
    /// The database it was taken from.
    pub source: SourceRecord,
    /// What was stored.
    pub objects: Vec<ObjectRecord>,
    /// Full fingerprints of the certificates it is encrypted to; empty when it is not encrypted.
    pub recipients: Vec<String>,
    /// The tables it covers, leaves of partitioned tables each by itself.
    pub tables: Vec<TableRecord>,
    /// Sequence values at the snapshot.
    pub sequences: Vec<SequenceRecord>,
    /// Digest over columns, types and keys of the covered tables.
    pub schema_fingerprint: Option<Digest>,
    /// Whether large objects are in it.
    pub large_objects: LargeObjects,
    /// Leadership under which it was made; a stale one is refused at commit.
    pub fencing_token: u64,
    /// Its place in the repository's order of commits.
    pub catalog: CatalogPosition,
    /// How its stored bytes were checked before it was committed.
    pub verification: Verification,
    /// What it builds upon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ParentRecord>,
}

/// The database an artifact was taken from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// The cluster's system identifier; absent where the server does not let the role read it.
    pub system_identifier: Option<SystemId>,
    /// Timeline at the snapshot.
    pub timeline: Option<Timeline>,
    /// Database name.
    pub database: String,
    /// Database oid.
    pub database_oid: u32,
    /// The server's version as it prints it.
    pub server_version: String,
    /// The database's encoding; the dump is written in it.
    pub encoding: String,
    /// The database's locale, for making one like it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<DatabaseLocale>,
    /// Version line of every tool that took part.
    pub tools: Vec<String>,
    /// `pg_current_snapshot()` of the exported snapshot.
    pub snapshot: Option<String>,
    /// WAL insert position right after the snapshot.
    pub lsn: Option<Lsn>,
}

/// How a database sorts and classifies text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseLocale {
    /// `LC_COLLATE`.
    pub collate: String,
    /// `LC_CTYPE`.
    pub ctype: String,
}

/// What one object of an artifact is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectRole {
    /// The rows.
    Data,
    /// The schema of the whole database.
    Schema,
    /// Roles, for people to read.
    Roles,
    /// The `.sha256` file over the others.
    Checksums,
}

/// One transformation of an object, outermost last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// pg_dump's custom format, not compressed by pg_dump.
    #[serde(rename = "pg_dump custom")]
    PgDumpCustom,
    /// SQL text.
    #[serde(rename = "sql")]
    Sql,
    /// gzip (RFC 1952), possibly of several members.
    #[serde(rename = "gzip")]
    Gzip,
    /// One OpenPGP message (RFC 4880 / RFC 9580).
    #[serde(rename = "openpgp")]
    OpenPgp,
}

/// One stored object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// What it is for.
    pub role: ObjectRole,
    /// Its key below the repository's prefix.
    pub key: ObjectKey,
    /// The store's version id, in a versioned bucket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Size before any encoding, in bytes.
    pub content_size: u64,
    /// SHA-256 before any encoding.
    pub content_digest: Digest,
    /// Size of the stored bytes.
    pub stored_size: u64,
    /// SHA-256 of the stored bytes.
    pub stored_digest: Digest,
    /// How content became stored bytes, in the order applied.
    pub encoding: Vec<Encoding>,
    /// Storage class asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<String>,
    /// Server-side encryption asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sse: Option<String>,
}

/// One covered table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRecord {
    /// Schema and name.
    #[serde(flatten)]
    pub table: QualifiedTable,
    /// Relation oid.
    pub oid: u32,
    /// The partitioned table it belongs to, the nearest one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_of: Option<QualifiedTable>,
    /// Its columns in order, as COPY lists them.
    pub columns: Vec<String>,
    /// What its rows add up to; absent for a partitioned table, which has no rows of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<TableSum>,
}

/// One sequence at the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequenceRecord {
    /// Schema and name.
    #[serde(flatten)]
    pub sequence: QualifiedTable,
    /// `last_value`.
    pub last_value: i64,
    /// `is_called`.
    pub is_called: bool,
}

/// Whether large objects are part of a dump.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LargeObjects {
    /// The database has none.
    None,
    /// They are in it.
    Included,
    /// The database has some, and the job leaves them out.
    Excluded,
}

/// A place in a repository's order of commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogPosition {
    /// Number of this commit, from 1.
    pub sequence: u64,
    /// Digest of the catalog entry before it; absent for the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Digest>,
}

/// How well stored bytes are known to be what was sent; later is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerificationLevel {
    /// The store confirmed sizes and checksums; the bytes were not read.
    StoreChecksum,
    /// Every stored byte was read back.
    ReadBack,
}

/// One check of an artifact's stored bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// How it was checked.
    pub level: VerificationLevel,
    /// When.
    pub at: DateTime<Utc>,
}

/// What an artifact builds upon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParentRecord {
    /// The parent artifact.
    pub id: ArtifactId,
    /// Digest of the parent's manifest.
    pub manifest_digest: Digest,
}

impl Manifest {
    /// Bytes stored over all objects.
    pub fn stored_size(&self) -> u64 {
        self.objects.iter().map(|object| object.stored_size).sum()
    }

    /// The object with `role`, if the artifact has one.
    pub fn object(&self, role: ObjectRole) -> Option<&ObjectRecord> {
        self.objects.iter().find(|object| object.role == role)
    }
}
