//! The door to repositories: the trait [`Storage`], its backends (directory, S3, memory) and wrappers (retry, fault).
//!
//! Stores bytes under keys and knows nothing of manifests, encryption or retention. Every backend passes the same
//! conformance suite (`tests/it/storage_conformance.rs`). Writes are create-only: a key once written never changes.
//! An object becomes visible only whole, by [`Storage::put`] or by [`Upload::commit`]; dropping an upload aborts it.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use crate::host::Complete;
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;

mod directory;
mod error;
mod fault;
mod memory;
mod retry;
mod s3;

pub use directory::DirectoryStorage;
pub use error::{StorageError, StorageErrorKind};
pub use fault::{Fault, Faulty, Operation};
pub use memory::MemoryStorage;
pub use retry::{Retrier, RetryPolicy, Retrying};
pub use s3::{ObjectLock, S3Settings, S3Storage, Sse};

/// Objects on one page of a listing, at most; S3's own limit.
const PAGE_OBJECTS: usize = 1000;

/// What is known of a stored object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Its key below the repository's prefix.
    pub key: ObjectKey,
    /// Size in bytes.
    pub size: u64,
    /// When the store says it was written.
    pub modified: DateTime<Utc>,
    /// Version id, in a versioned bucket.
    pub version: Option<String>,
    /// Storage class, where it is not the store's usual one.
    pub storage_class: Option<String>,
    /// Whether the bytes can be read now; an archived object must be thawed first.
    pub readable: bool,
    /// SHA-256 that the store itself computed or was given and checked, where it keeps one.
    pub digest: Option<Digest>,
    /// The nonce of [`PutOptions`] it was written with, where the store keeps one; never known from a listing.
    pub nonce: Option<String>,
}

/// How an object is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PutOptions {
    /// Storage class, in the store's words (`GLACIER`); ignored with a note by stores without classes.
    pub storage_class: Option<String>,
    /// Written into the store's metadata: lets a lost answer be told from somebody else's object.
    pub nonce: Option<String>,
    /// The size to expect, in bytes, an estimate: sets the part size before the first byte is sent.
    pub expected_size: Option<u64>,
    /// Object lock until this instant, where the bucket has it.
    pub locked_until: Option<DateTime<Utc>>,
}

/// What a store answered to a finished write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Version id, in a versioned bucket.
    pub version: Option<String>,
    /// Size in bytes.
    pub size: u64,
    /// SHA-256 of the whole that the store itself computed or checked, where it says so.
    pub digest: Option<Digest>,
    /// Whether that is the digest of bytes that were read back from where they now lie.
    pub read_back: bool,
}

/// What a backend can do, as configured or as [`Storage::probe`] found; the others do without.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// A write to an existing key is refused by the store itself.
    pub conditional_put: bool,
    /// Objects have storage classes.
    pub storage_classes: bool,
    /// Old versions are kept.
    pub versions: bool,
    /// Objects can be locked against deletion.
    pub object_lock: bool,
}

/// What a store says of itself when asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Probe {
    /// What it can do.
    pub features: Features,
    /// How far its clock is ahead of ours (negative: behind), where it tells the time.
    pub clock_offset: Option<TimeDelta>,
}

/// What the owner of a bucket has set around our objects. Absent is what the store does not tell us.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Posture {
    /// Whether the bucket encrypts what comes without a wish of its own.
    pub encrypted: Option<bool>,
    /// Whether what is stored here is encrypted by a key of KMS: by the bucket itself, or because we ask for it.
    pub kms: Option<bool>,
    /// Whether the bucket's policy refuses everything that does not come by TLS.
    pub tls_only: Option<bool>,
    /// Whether strangers may be let in.
    pub public: Option<bool>,
    /// Lifecycle rules that delete present objects of ours, by name.
    pub deleting: Option<Vec<String>>,
}

/// One page of a listing, in key order.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Objects whose keys parse.
    pub objects: Vec<ObjectMeta>,
    /// Names below the prefix that are no object keys: reported, never deleted.
    pub foreign: Vec<String>,
    /// Where the next page begins; absent on the last.
    pub next: Option<PageToken>,
}

/// Where a listing goes on; opaque.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageToken(pub String);

/// An upload that was begun and not finished, by a run that may be dead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// The key it was meant for.
    pub key: String,
    /// The store's handle: an upload id, a temporary file's name.
    pub handle: String,
    /// When it was begun.
    pub begun: DateTime<Utc>,
}

/// Whether an archived object can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Thaw {
    /// It can be read now.
    Readable,
    /// It was asked for; to be asked again later.
    Underway {
        /// How long the store usually takes.
        expected: Duration,
    },
}

/// A link by which whoever has it can read one object without a login.
#[derive(Clone, PartialEq, Eq)]
pub struct Link {
    /// The whole address: a secret for as long as it lasts.
    pub url: String,
    /// How long it lasts: what was asked for, or less when the login that signed it ends earlier.
    pub lasts: Duration,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("lasts", &self.lasts).finish_non_exhaustive()
    }
}

/// A stream of an object's bytes. Errors if it ends before the object does.
#[async_trait]
pub trait Download: Send {
    /// How many bytes it gives in all.
    fn size(&self) -> u64;

    /// The next piece, or nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, StorageError>;
}

/// A place where objects are kept, already bound to its prefix.
#[async_trait]
pub trait Storage: Send + Sync + fmt::Debug {
    /// The place for messages: `s3://bucket/prefix`, `file:///path`. Holds no secret.
    fn place(&self) -> String;

    /// What this backend can do, by its settings; asks nobody.
    fn features(&self) -> Features;

    /// Asks the store what it can do. Errors when it cannot be used at all: no such bucket or directory, the wrong
    /// region, a login that is refused, a directory that others may write to. Changes nothing.
    async fn probe(&self) -> Result<Probe, StorageError>;

    /// What the owner of the bucket has set around our objects; nothing where there is no bucket.
    async fn posture(&self) -> Result<Option<Posture>, StorageError> {
        Ok(None)
    }

    /// What is known of `key`. `Missing` when there is none.
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError>;

    /// The bytes of `key`, or `range` of them, of one `version` where given. Errors with `Missing`, with `Archived` when
    /// they must be thawed first, with `Other` when the range is not within the object.
    async fn get(
        &self,
        key: &ObjectKey,
        version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError>;

    /// Stores a small object at once. `Exists` when the key is taken, whatever its bytes.
    async fn put(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<Stored, StorageError>;

    /// Begins an object of unknown length.
    async fn upload(&self, key: &ObjectKey, options: &PutOptions) -> Result<Box<dyn Upload>, StorageError>;

    /// Deletes `key`, or one `version` of it. A key that is not there is no error.
    async fn delete(&self, key: &ObjectKey, version: Option<&str>) -> Result<(), StorageError>;

    /// One page of all objects whose key begins with `prefix` (text, may be empty), in key order.
    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError>;

    /// Names of the folders right below the repository's root, unsorted, without the slash.
    async fn folders(&self) -> Result<Vec<String>, StorageError> {
        self.folders_in("").await
    }

    /// Names of the folders right below `above` (the empty text, or a path with a slash at its end), unsorted, without
    /// the slash. None when there is no such folder.
    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError>;

    /// Uploads begun and not finished, of this repository, those of other agents included.
    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError>;

    /// Ends one of them for good.
    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError>;

    /// Asks for an archived object to be made readable for `days` days.
    async fn thaw(&self, key: &ObjectKey, version: Option<&str>, days: u32) -> Result<Thaw, StorageError>;

    /// A link to read `key` for `lasts`. `Other` by stores that have none.
    async fn link(&self, key: &ObjectKey, version: Option<&str>, lasts: Duration) -> Result<Link, StorageError>;
}

/// An object on its way in. Dropping it aborts it.
#[async_trait]
pub trait Upload: Send {
    /// Takes the next bytes, of any length; waits while as many are in flight as memory allows.
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError>;

    /// Makes the object visible, once, durably. `digest` is the SHA-256 of all bytes written, `size` their number: what
    /// was written here and the store's own answer must agree, else `Corrupt` and no object. `Exists` when the key was
    /// taken meanwhile; the other object is left untouched.
    async fn commit(self: Box<Self>, proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError>;

    /// Ends it without an object.
    async fn abort(self: Box<Self>) -> Result<(), StorageError>;
}

/// Holds what was written against what the caller says was written.
fn agree(key: &ObjectKey, written: (Digest, u64), said: (Digest, u64)) -> Result<(), StorageError> {
    if written == said {
        return Ok(());
    }
    let ((digest, size), (said_digest, said_size)) = (written, said);
    Err(StorageError::new(
        StorageErrorKind::Corrupt,
        format!(
            "store {key}: {size} bytes with digest {digest} were written, {said_size} with {said_digest} were expected"
        ),
    ))
}

/// `range`, or all of an object of `size` bytes.
fn range_within(key: &ObjectKey, range: Option<Range<u64>>, size: u64) -> Result<Range<u64>, StorageError> {
    let range = range.unwrap_or(0..size);
    if range.start > range.end || range.end > size {
        let Range { start, end } = range;
        let message = format!("read bytes {start} to {end} of {key}: it has {size} bytes");
        return Err(StorageError::new(StorageErrorKind::Other, message));
    }
    Ok(range)
}
