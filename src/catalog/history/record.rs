//! What the run history is made of: one [`RunRecord`] for each attempt, one [`SkipRecord`] for instants without a run.
//!
//! Plain values with a stable JSON form; [`VERSION`] goes up when a field changes its meaning. The surprising thing:
//! a begun run has no end yet, so the same record is written twice, and one without an end whose agent is gone was
//! interrupted.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{ArtifactId, RunId};
use crate::model::outcome::Outcome;
use crate::model::verb::Verb;

/// The version of a history line.
pub const VERSION: u32 = 1;

/// Why a run was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Trigger {
    /// Its time had come.
    Schedule,
    /// Its time had come while the agent was away.
    CatchUp,
    /// Somebody asked for it.
    Manual,
    /// An earlier attempt did not do all of it.
    Retry,
}

/// One attempt at a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunRecord {
    /// Its identity.
    pub run: RunId,
    /// The job's name in the plan.
    pub job: String,
    /// What the job does.
    pub verb: Verb,
    /// Why it was begun.
    pub trigger: Trigger,
    /// The instant it was begun for; of a manual run, when it was asked for.
    pub scheduled: DateTime<Utc>,
    /// When it was begun.
    pub started: DateTime<Utc>,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// Scheduled instants before this one that passed without a run of their own.
    pub missed: u64,
    /// The only repositories it writes to; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only_repositories: Vec<String>,
    /// The artifact of an earlier attempt that those repositories lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completes: Option<ArtifactId>,
    /// How it ended; absent while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<RunEnd>,
}

impl RunRecord {
    /// The same run, ended at `finished`.
    pub fn ended(mut self, finished: DateTime<Utc>, result: RunResult) -> Self {
        self.end = Some(RunEnd { finished, result });
        self
    }

    /// Whether it ended with nothing left to do.
    pub fn is_green(&self) -> bool {
        matches!(&self.end, Some(RunEnd { result: RunResult::Done(outcome), .. }) if outcome.is_green())
    }
}

/// The end of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEnd {
    /// When it ended, or when its end was noticed.
    pub finished: DateTime<Utc>,
    /// What came of it.
    pub result: RunResult,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunResult {
    /// The verb came to its end; the outcome says how well.
    Done(Outcome),
    /// The verb failed.
    Failed(RecordedFailure),
    /// The verb was stopped for a reason that is not its own.
    Interrupted(Interruption),
}

/// A failure as the history keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFailure {
    /// What kind of failure it was.
    pub kind: FailureKind,
    /// What failed and why, causes included.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
}

impl From<&Failure> for RecordedFailure {
    fn from(failure: &Failure) -> Self {
        Self { kind: failure.kind, message: failure.full_message(), hint: failure.hint.clone() }
    }
}

/// Why a run was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Interruption {
    /// The agent ended without a word: killed, or the machine went down.
    AgentDied,
    /// The agent was told to stop.
    Shutdown,
    /// Another agent may be the leader now.
    LeadershipLost,
}

impl fmt::Display for Interruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AgentDied => "the agent died",
            Self::Shutdown => "the agent was told to stop",
            Self::LeadershipLost => "the agent lost its leadership",
        })
    }
}

/// Scheduled instants that get no run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipRecord {
    /// The job's name in the plan.
    pub job: String,
    /// What the job does.
    pub verb: Verb,
    /// The latest of the instants.
    pub scheduled: DateTime<Utc>,
    /// How many they are.
    pub count: u64,
    /// When this was decided.
    pub at: DateTime<Utc>,
    /// Why.
    pub reason: SkipReason,
}

/// Why scheduled instants get no run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// The job was still running.
    StillRunning,
    /// They passed while the agent was away, and the job does not catch up.
    Missed,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::StillRunning => "the job was still running",
            Self::Missed => "the agent was away",
        })
    }
}

/// One line of the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The version it was written in.
    pub version: u32,
    /// What it says.
    pub entry: Entry,
}

/// What one line says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Entry {
    /// Every instant of a job up to `handled` is settled.
    Settled {
        /// The job.
        job: String,
        /// Up to when.
        handled: DateTime<Utc>,
    },
    /// A run was begun.
    Begun(RunRecord),
    /// A run ended.
    Ended(RunRecord),
    /// Instants got no run.
    Skipped(SkipRecord),
}
