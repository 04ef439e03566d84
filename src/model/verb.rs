//! The verbs: what a job can do. A closed set; [`Verb::is_built`] says which of them this version carries out.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// A logical dump of tables.
    Dump,
    /// A logical dump of what changed since its parent.
    Increment,
    /// A physical copy of the cluster.
    BaseBackup,
    /// Ships archived WAL to every repository and checks for gaps.
    WalSync,
    /// Applies retention.
    Expire,
    /// Makes partitions ahead of time and drops those past retention.
    Partition,
    /// Verifies the audit hash chain.
    AuditVerify,
    /// Signs the head of the audit chain, off-site.
    AuditCheckpoint,
    /// Deletes rows by key.
    Purge,
    /// Archives a directory.
    Files,
    /// Restores for real and proves the result equal.
    RestoreTest,
    /// Writes the verification report.
    Report,
    /// Works through the daily checklist.
    Check,
}

impl Verb {
    /// Every verb, in the order of the documentation.
    pub const ALL: [Self; 13] = [
        Self::Dump,
        Self::Increment,
        Self::BaseBackup,
        Self::WalSync,
        Self::Expire,
        Self::Partition,
        Self::AuditVerify,
        Self::AuditCheckpoint,
        Self::Purge,
        Self::Files,
        Self::RestoreTest,
        Self::Report,
        Self::Check,
    ];

    /// The name used in plans, manifests and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Increment => "increment",
            Self::BaseBackup => "base-backup",
            Self::WalSync => "wal-sync",
            Self::Expire => "expire",
            Self::Partition => "partition",
            Self::AuditVerify => "audit-verify",
            Self::AuditCheckpoint => "audit-checkpoint",
            Self::Purge => "purge",
            Self::Files => "files",
            Self::RestoreTest => "restore-test",
            Self::Report => "report",
            Self::Check => "check",
        }
    }

    /// Whether this version can run it. A job whose verb is not built is shown by `plan` and left out by `run`.
    pub fn is_built(self) -> bool {
        matches!(
            self,
            Self::Dump
                | Self::Increment
                | Self::WalSync
                | Self::Expire
                | Self::Partition
                | Self::AuditVerify
                | Self::AuditCheckpoint
                | Self::Check
                | Self::BaseBackup
        )
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A text that names no verb.
#[derive(Debug, thiserror::Error)]
#[error("read {0:?} as a verb")]
pub struct UnknownVerb(String);

impl FromStr for Verb {
    type Err = UnknownVerb;

    fn from_str(text: &str) -> Result<Self, UnknownVerb> {
        Self::ALL.into_iter().find(|verb| verb.name() == text).ok_or_else(|| UnknownVerb(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verb_has_one_name_everywhere() {
        for verb in Verb::ALL {
            assert_eq!(verb.name().parse::<Verb>().unwrap(), verb);
            assert_eq!(serde_json::to_value(verb).unwrap(), verb.name());
        }
    }
}
