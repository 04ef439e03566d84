//! How WAL is archived and fetched, and when a backlog is told.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::problems::Problems;
use crate::config::settings::Config;
use crate::model::size::ByteSize;

/// How WAL is archived and fetched.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Wal {
    /// When a push answers PostgreSQL: "repository", once every repository has the file; "local", once the directories
    /// have it, and `wal-sync` carries it on.
    pub ack: Ack,
    /// zstd level, 1 to 19.
    pub compression_level: u8,
    /// Files that the agent ships, and fetches, side by side. When absent, at most 4: twice as many as the machine has cores
    /// are shipped, and as many as it has are fetched.
    pub parallel: Option<u16>,
    /// Segments that the agent fetches ahead of a recovery; 0 for none.
    pub prefetch: u16,
    /// A backlog of so much WAL is a warning.
    pub backlog_warning: ByteSize,
    /// A backlog of so much WAL is critical.
    pub backlog_critical: ByteSize,
    /// The volume of pg_wal used to so many percent is a warning.
    pub volume_warning: u8,
    /// The volume of pg_wal used to so many percent is critical.
    pub volume_critical: u8,
}

impl Default for Wal {
    fn default() -> Self {
        Self {
            ack: Ack::Repository,
            compression_level: 1,
            parallel: None,
            prefetch: 4,
            backlog_warning: ByteSize(1 << 30),
            backlog_critical: ByteSize(4 << 30),
            volume_warning: 85,
            volume_critical: 95,
        }
    }
}

/// When a push answers PostgreSQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ack {
    /// Once every repository that takes WAL has the file.
    #[default]
    Repository,
    /// Once every directory that takes WAL has it: "local-durable".
    Local,
}

pub(in crate::config) fn validate(config: &Config, problems: &mut Problems<'_>) {
    let wal = &config.wal;
    let level = (1..=19).contains(&wal.compression_level);
    problems.error_if(!level, "wal.compression_level", "expected 1 to 19");
    problems.error_if(wal.parallel == Some(0), "wal.parallel", "expected at least 1");
    let sizes = wal.backlog_warning <= wal.backlog_critical;
    problems.error_if(!sizes, "wal.backlog_critical", "it is less than wal.backlog_warning");
    let percents = wal.volume_warning <= wal.volume_critical && wal.volume_critical <= 100;
    problems.error_if(!percents, "wal.volume_critical", "expected a percentage of at least wal.volume_warning");
    let takes_local = config.repository.values().any(|each| each.wal && each.url.is_directory());
    let nowhere = wal.ack == Ack::Local && !takes_local;
    problems.error_if(nowhere, "wal.ack", "\"local\" needs a file:// repository that takes WAL");
}
