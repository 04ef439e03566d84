//! The one error that reaches people: what failed, why, and what to do next.
//!
//! Rooms have their own errors; a verb turns them into a [`Failure`] where it knows what the operator can do. The
//! kind picks the exit code, here and nowhere else. Messages are lower-case fragments that fit after "failed to".

use std::error::Error;
use std::fmt;

/// What kind of failure it is; each has one exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// Anything without a kind of its own.
    Failed,
    /// Bad arguments or a bad configuration.
    Usage,
    /// Done, with findings that somebody should look at.
    Findings,
    /// Nothing matches what was asked for.
    NothingMatches,
    /// Another process holds the lock.
    LockHeld,
    /// A login was refused or a message could not be decrypted.
    Authentication,
    /// Stored bytes, a signature or the catalog's order are not what they must be.
    Integrity,
    /// The instant asked for cannot be restored.
    OutsideWindow,
    /// Refused because it could destroy something needed.
    RefusedForSafety,
}

impl FailureKind {
    /// Every kind, in the order of exit codes.
    pub const ALL: [Self; 9] = [
        Self::Failed,
        Self::Usage,
        Self::Findings,
        Self::NothingMatches,
        Self::LockHeld,
        Self::Authentication,
        Self::Integrity,
        Self::OutsideWindow,
        Self::RefusedForSafety,
    ];

    /// The process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Findings => 3,
            Self::NothingMatches => 10,
            Self::LockHeld => 11,
            Self::Authentication => 12,
            Self::Integrity => 13,
            Self::OutsideWindow => 14,
            Self::RefusedForSafety => 15,
        }
    }

    /// What the exit code means, as `--help` says it.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Usage => "usage or configuration",
            Self::Findings => "done, with findings",
            Self::NothingMatches => "nothing matches",
            Self::LockHeld => "lock held by another process",
            Self::Authentication => "authentication or decryption",
            Self::Integrity => "integrity broken",
            Self::OutsideWindow => "target outside the recovery window",
            Self::RefusedForSafety => "refused for safety",
        }
    }
}

/// A failure for people.
#[derive(Debug)]
pub struct Failure {
    /// Picks the exit code.
    pub kind: FailureKind,
    /// What failed, on what: a lower-case fragment that fits after "failed to".
    pub message: String,
    /// A sentence that says what to do next.
    pub hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Failure {
    /// A failure of `kind` with its message.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// The same failure with what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with what caused it.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure told to somebody else: its causes are in its message then.
    pub fn again(&self) -> Self {
        Self { kind: self.kind, message: self.full_message(), hint: self.hint.clone(), source: None }
    }

    /// The message followed by each cause, on one line.
    pub fn full_message(&self) -> String {
        with_causes(self)
    }
}

/// The message of `error` followed by that of each cause, on one line; a cause that its error already quotes is left out.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_none_says_ok() {
        let codes: HashSet<u8> = FailureKind::ALL.iter().map(|kind| kind.exit_code()).collect();
        assert_eq!(codes.len(), FailureKind::ALL.len());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn the_full_message_names_every_cause_once() {
        let inner = Failure::new(FailureKind::Failed, "open /x").because(std::io::Error::other("disk on fire"));
        let outer = Failure::new(FailureKind::Failed, "read the manifest").because(inner);
        assert_eq!(outer.full_message(), "read the manifest: open /x: disk on fire");
    }
}
