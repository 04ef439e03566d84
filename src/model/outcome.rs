//! What a verb did: the [`Outcome`] that history, notifications and reports are made of, and its [`Finding`]s.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::id::ArtifactId;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// To be mended soon.
    Warning,
    /// A promise is broken now.
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Critical => "critical",
        })
    }
}

/// Something a person should look at, with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// A stable word for the class of finding: `large-objects-excluded`.
    pub code: String,
    /// What was found, on what.
    pub message: String,
    /// What to do about it, a command where there is one.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding without a remedy.
    pub fn new(severity: Severity, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, code: code.into(), message: message.into(), remedy: None }
    }

    /// The same finding with what to do about it.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What became of one repository in a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryOutcome {
    /// The repository's name in the configuration.
    pub repository: String,
    /// Why it does not have the artifact; absent when it has.
    pub error: Option<String>,
    /// Bytes stored in it.
    pub stored_bytes: u64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything asked for was done.
    Ok,
    /// Done, with findings.
    Findings,
    /// Some repositories have it and some do not.
    Incomplete,
    /// Nothing usable came of it.
    Failed,
}

/// What one run of a verb did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// One line for people.
    pub summary: String,
    /// The artifact it made, if it made one.
    pub artifact: Option<ArtifactId>,
    /// What became of each repository it wrote to.
    pub repositories: Vec<RepositoryOutcome>,
    /// What somebody should look at.
    pub findings: Vec<Finding>,
}

impl Outcome {
    /// A plain success with its one line.
    pub fn ok(summary: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Ok,
            summary: summary.into(),
            artifact: None,
            repositories: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Whether nothing is left to do: only this is shown as green.
    pub fn is_green(&self) -> bool {
        self.verdict == Verdict::Ok
    }
}
