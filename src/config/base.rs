//! How base backups are made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::problems::Problems;
use crate::config::settings::Config;
use crate::model::size::ByteSize;
use crate::model::span::Span;

/// Smallest and largest part, in bytes.
const PART_SIZES: std::ops::RangeInclusive<u64> = (1 << 20)..=(16 << 30);

/// How base backups are made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BaseBackup {
    /// "zstd", "gzip" or "lz4".
    pub compression: Compression,
    /// Its level: 1 to 19 of zstd, 1 to 9 of gzip; lz4 has none.
    pub compression_level: u8,
    /// Parts that are read, compressed, encrypted and sent side by side; as many as the machine has cores, at most 4,
    /// when absent.
    pub parallel: Option<u16>,
    /// Bytes of files in one part, about; less where there is little to copy. A file that is large beside that is a part of
    /// its own.
    pub part_size: ByteSize,
    /// Whether the server makes its checkpoint at once instead of at leisure.
    pub fast_checkpoint: bool,
    /// Whether checksums of pages are verified while they are read.
    pub verify_pages: bool,
    /// How long the log of a backup may take to arrive in a repository.
    pub wal_timeout: Span,
}

impl Default for BaseBackup {
    fn default() -> Self {
        Self {
            compression: Compression::Zstd,
            compression_level: 1,
            parallel: None,
            part_size: ByteSize(256 << 20),
            fast_checkpoint: true,
            verify_pages: true,
            wal_timeout: Span::seconds(15 * 60),
        }
    }
}

/// How parts are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Zstandard.
    Zstd,
    /// gzip.
    Gzip,
    /// LZ4.
    Lz4,
}

pub(in crate::config) fn validate(config: &Config, problems: &mut Problems<'_>) {
    let base = &config.base_backup;
    let (levels, expected) = match base.compression {
        Compression::Zstd => (1..=19, "expected 1 to 19"),
        Compression::Gzip => (1..=9, "expected 1 to 9"),
        Compression::Lz4 => (0..=u8::MAX, ""),
    };
    problems.error_if(!levels.contains(&base.compression_level), "base_backup.compression_level", expected);
    problems.error_if(base.parallel == Some(0), "base_backup.parallel", "expected at least 1");
    let fits = PART_SIZES.contains(&base.part_size.bytes());
    problems.error_if(!fits, "base_backup.part_size", "expected 1MB to 16GB");
    problems.check_length("base_backup.wal_timeout", Some(base.wal_timeout));
}
