//! What an operator says about an S3 repository. Credentials are not among it: the SDK's chain finds them.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// One S3 prefix and how to use it. Construct with [`S3Settings::new`] and change what differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// The bucket's name.
    pub bucket: String,
    /// The prefix of all keys, without slashes at its ends; may be empty.
    pub prefix: String,
    /// The bucket's region; where absent, what the SDK's chain finds (`AWS_REGION`, profile).
    pub region: Option<String>,
    /// Address of a store other than AWS: https, or http to this machine.
    pub endpoint: Option<String>,
    /// Whether the bucket's name goes into the path instead of the host name, as most stores but AWS want it.
    pub path_style: bool,
    /// PEM file of the certificates to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Server-side encryption to ask for; the bucket's default where absent.
    pub sse: Option<Sse>,
    /// Object lock for everything written; the bucket's default where absent. Needs `s3:PutObjectRetention`.
    pub lock: Option<ObjectLock>,
    /// Whether the store itself refuses a write to a taken key (`If-None-Match: *`: AWS, radosgw, MinIO). Where it does
    /// not (rclone, garage) say false: every write then looks first, and two agents that race for one key within that
    /// look can overwrite one another. (radosgw 16 lets that happen for objects of several parts.)
    pub conditional_put: bool,
    /// Size of an upload's parts in bytes, at least 5 MiB; they grow when an object would need too many.
    pub part_size: u64,
    /// The most parts the store takes for one object; 10,000 for AWS.
    pub most_parts: u32,
    /// Parts kept at a time, the one being filled included: memory is this times the part size.
    pub parts_in_flight: usize,
    /// Where parts wait that are larger than [`Self::most_in_memory`]; in memory all the same where absent.
    pub spill_directory: Option<PathBuf>,
    /// The largest part, in bytes, that waits in memory.
    pub most_in_memory: usize,
    /// The longest a connection may take to be made.
    pub connect_timeout: Duration,
    /// The longest an answer may take, sending not counted.
    pub answer_timeout: Duration,
    /// Bytes per second below which sending counts as stalled.
    pub least_rate: u64,
}

/// Server-side encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sse {
    /// With the store's own keys (SSE-S3).
    Aes256,
    /// With a key of the key service (SSE-KMS).
    Kms {
        /// Its id, alias or ARN; the account's default key where absent.
        key_id: Option<String>,
    },
}

/// Protection against deletion, for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLock {
    /// Whether nobody at all can lift it (compliance mode), or those with the right to (governance mode).
    pub compliance: bool,
    /// For how many days from the writing; none where only [`crate::storage::PutOptions::locked_until`] says.
    pub days: Option<u32>,
}

impl S3Settings {
    /// The usual settings for `prefix` in `bucket`, of AWS.
    pub fn new(bucket: impl Into<String>, prefix: impl AsRef<str>) -> Self {
        Self {
            bucket: bucket.into(),
            prefix: prefix.as_ref().trim_matches('/').to_owned(),
            region: None,
            endpoint: None,
            path_style: false,
            ca_bundle: None,
            sse: None,
            lock: None,
            conditional_put: true,
            part_size: 16 << 20,
            most_parts: 10_000,
            parts_in_flight: 2,
            spill_directory: None,
            most_in_memory: 16 << 20,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(60),
            least_rate: 64 << 10,
        }
    }

    /// How long one request that sends `bytes` may take.
    pub(super) fn patience(&self, bytes: u64) -> Duration {
        self.answer_timeout + Duration::from_secs(bytes / self.least_rate.max(1))
    }

    /// Where a part of `room` bytes is kept until it is sent; nothing for in memory.
    pub(super) fn spills(&self, room: usize) -> Option<&Path> {
        self.spill_directory.as_deref().filter(|_| room > self.most_in_memory)
    }
}
