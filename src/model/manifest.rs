//! The manifest: the signed JSON that makes an artifact exist, as values.
//!
//! Format 1. A reader takes unknown fields and refuses an unknown format number. The stored bytes are what is signed
//! and are never made again from these values, so unknown fields survive. Holds no row data.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::base::BaseRecord;
use crate::model::buckets::Marked;
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
    /// In a base backup, where it begins and ends in the log and what a copy needs to start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseRecord>,
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
    /// When the snapshot was taken: the instant whose state this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<DateTime<Utc>>,
    /// From where on the log has what transactions wrote that began after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<LogMark>,
}

/// A position of the log and the transactions that had begun by then: all others wrote behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMark {
    /// WAL insert position before the snapshot.
    pub lsn: Lsn,
    /// The first transaction id, with its epoch, that certainly had not begun at `lsn`.
    pub next_xid: u64,
}

impl ChangeRecord {
    /// That of a table of which nothing is known but the rows in the increment.
    pub fn of(stored: TableSum) -> Self {
        Self { whole: None, rows: stored.rows, stored, marked: None, since: None, untouched: None }
    }
}

/// A stretch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogStretch {
    /// Where it begins.
    pub from: Lsn,
    /// Where it ends.
    pub to: Lsn,
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
    /// Sums over the keys of each relation, which the next increment compares with.
    Buckets,
    /// A part of a base backup.
    Part,
    /// The list of a base backup's files.
    Files,
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
    /// POSIX tar of COPY text.
    #[serde(rename = "tar")]
    Tar,
    /// Sums over keys: 40 bytes a bucket, relation after relation as the manifest says.
    #[serde(rename = "dbagent buckets 1")]
    Buckets,
    /// The files of a base backup: one JSON object a line.
    #[serde(rename = "dbagent files 1")]
    Files,
    /// gzip (RFC 1952), possibly of several members.
    #[serde(rename = "gzip")]
    Gzip,
    /// Zstandard (RFC 8878).
    #[serde(rename = "zstd")]
    Zstd,
    /// LZ4 in its frame format.
    #[serde(rename = "lz4")]
    Lz4,
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
    /// Number of its storage file; TRUNCATE and rewrites change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relfilenode: Option<u32>,
    /// Digest over its columns, types and keys; absent for a partition, which follows its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
    /// Its primary key and what the keys add up to; absent where rows cannot be told apart by a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<KeyRecord>,
    /// In an increment, what it holds of this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeRecord>,
}

/// The primary key of a table, and where the sums over its keys are stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its columns, in the key's order.
    pub columns: Vec<String>,
    /// Number of buckets.
    pub buckets: u32,
    /// Where they begin in the object of sums, in bytes.
    pub offset: u64,
    /// SHA-256 of their stored bytes: what the keys must add up to after a restore.
    pub digest: Digest,
}

/// What an increment holds of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Why all its rows are in the increment; absent where only the changed ones are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<Whole>,
    /// Rows in the table at the snapshot; with `since` only those in the increment, the rest is not known.
    pub rows: u64,
    /// What the rows in the increment add up to.
    pub stored: TableSum,
    /// Buckets out of which keys may be gone; the keys that are there are in the increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marked: Option<Marked>,
    /// Which rows were looked at, where that is not all of them: the increment is not exact for this table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Since>,
    /// The stretch of the log that does not touch the table, which therefore was not read: it is as the parent has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untouched: Option<LogStretch>,
}

/// The rows that an increment which is not exact looked at. What was deleted, and what was written with an earlier time,
/// is not in it; how many rows the table had is not known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Since {
    /// The column that says when a row changed.
    pub column: String,
    /// The earliest time looked at.
    pub from: DateTime<Utc>,
    /// The table's primary key, by which rows replace others.
    pub key: Vec<String>,
}

/// Whether what `record` says of its table is exact.
pub fn is_exact(record: &TableRecord) -> bool {
    record.change.as_ref().is_none_or(|change| change.since.is_none())
}

/// Why a table is in an increment with all its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Whole {
    /// It has no primary key that COPY lists.
    NoKey,
    /// The parent does not have this relation: new, attached, or swapped by rename.
    NewRelation,
    /// Its columns or its key are not those that the parent recorded.
    OtherForm,
    /// Rows were there that nobody wrote since and that the parent did not have.
    Contradiction,
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

    /// The instant whose state this is.
    pub fn as_of(&self) -> DateTime<Utc> {
        self.source.taken.unwrap_or(self.started)
    }

    /// The object with `role`, if the artifact has one.
    pub fn object(&self, role: ObjectRole) -> Option<&ObjectRecord> {
        self.objects.iter().find(|object| object.role == role)
    }
}
