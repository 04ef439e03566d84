//! Object keys: relative paths that are safe as an S3 key and as a file name below a directory.
//!
//! A key that parsed cannot climb out of its repository, whatever a manifest or a listing claims.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::failure::{Failure, FailureKind};

/// Folders that a repository keeps for itself and that never hold artifacts: the catalog's log, leases, probes, WAL, signed
/// checkpoints of the audit chain, alerts about it, seals of its partitions, decrypt drills.
pub const OWN_FOLDERS: [&str; 8] = ["catalog", "leases", "probe", "wal", "checkpoints", "alerts", "seals", "drills"];

/// Longest key accepted, in bytes: S3's limit of 1,024 less room for a prefix.
pub const MAX_KEY_BYTES: usize = 900;
const MAX_COMPONENT_BYTES: usize = 230;

/// A relative path of one or more components joined by `/`: no empty, `.`, `..` or hidden component, no backslash,
/// no control character.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectKey(String);

/// Why a text is no object key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {key:?} as an object key: {reason}")]
pub struct InvalidKey {
    key: String,
    reason: &'static str,
}

impl ObjectKey {
    /// The key as text, components joined by `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from the outermost folder to the name.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// The same key with `suffix` appended to its name.
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, InvalidKey> {
        format!("{}{suffix}", self.0).parse()
    }
}

impl FromStr for ObjectKey {
    type Err = InvalidKey;

    fn from_str(text: &str) -> Result<Self, InvalidKey> {
        match fault(text) {
            None => Ok(Self(text.to_owned())),
            Some(reason) => Err(InvalidKey { key: text.chars().take(200).collect(), reason }),
        }
    }
}

fn fault(text: &str) -> Option<&'static str> {
    if text.len() > MAX_KEY_BYTES {
        return Some("it is longer than 900 bytes");
    }
    if text.chars().any(|c| c.is_control() || c == '\\') {
        return Some("it has a backslash or a control character");
    }
    text.split('/').find_map(|component| match component {
        "" => Some("it has an empty component"),
        _ if component.starts_with('.') => Some("a component begins with a dot"),
        _ if component.len() > MAX_COMPONENT_BYTES => Some("a component is longer than 230 bytes"),
        _ => None,
    })
}

impl From<InvalidKey> for Failure {
    fn from(error: InvalidKey) -> Self {
        Self::new(FailureKind::Usage, error.to_string())
    }
}

impl TryFrom<String> for ObjectKey {
    type Error = InvalidKey;

    fn try_from(text: String) -> Result<Self, InvalidKey> {
        text.parse()
    }
}

impl From<ObjectKey> for String {
    fn from(key: ObjectKey) -> Self {
        key.0
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_keys_parse_and_print_unchanged() {
        for text in ["repository.json", "full/bc003_full_20251103_030000.dump.gz.gpg", "wal/00000001/a b/ü"] {
            assert_eq!(text.parse::<ObjectKey>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn f41_keys_that_climb_or_hide_are_refused() {
        let long = "a/".repeat(600);
        let wide = "a".repeat(231);
        for text in [
            "",
            "/etc/passwd",
            "../x",
            "a/../../etc/cron.d/x",
            "a//b",
            "a/./b",
            "a\\b",
            "a\0b",
            "a/",
            ".x",
            "a\nb",
            &long,
            &wide,
        ] {
            assert!(text.parse::<ObjectKey>().is_err(), "{text:?} was taken");
        }
    }
}
