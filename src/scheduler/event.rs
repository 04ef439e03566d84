//! What the agent tells: one ordered stream that log, metrics, status and notifications consume.
//!
//! Consumers cannot reach back. All of a run's events lie between its `Started` and its `Finished`.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::catalog::history::{RunRecord, SkipRecord};
use crate::model::event::Event;
use crate::model::id::RunId;

/// One thing the agent tells.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "agent_event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// A run begins.
    Started {
        /// The run, without an end.
        record: RunRecord,
    },
    /// A run tells something. Progress comes at most once a second.
    Progress {
        /// The job.
        job: String,
        /// The run.
        run: RunId,
        /// What it tells.
        event: Event,
    },
    /// A run ended, well or not.
    Finished {
        /// The run, with its end.
        record: RunRecord,
    },
    /// Scheduled instants get no run.
    Skipped {
        /// Which, and why.
        skip: SkipRecord,
    },
    /// Scheduled instants passed without a run of their own; the one run that is due stands for them.
    Missed {
        /// The job.
        job: String,
        /// How many.
        count: u64,
        /// The instant of the run that stands for them.
        scheduled: DateTime<Utc>,
    },
    /// A run will be tried again.
    RetryAt {
        /// The job.
        job: String,
        /// Which attempt it will be.
        attempt: u32,
        /// When.
        at: DateTime<Utc>,
        /// The only repositories it will write to; empty for all.
        only_repositories: Vec<String>,
    },
    /// This agent leads, or no longer does.
    Leadership {
        /// The fencing token, of the leader only.
        fencing_token: Option<u64>,
    },
    /// The clock was found far behind an instant already settled; the job counts from now.
    ClockWentBack {
        /// The job.
        job: String,
        /// The settled instant.
        handled: DateTime<Utc>,
    },
    /// The jobs were replaced.
    Reloaded {
        /// Jobs that are new.
        added: Vec<String>,
        /// Jobs that are gone; one that runs ends first.
        removed: Vec<String>,
        /// Jobs that differ.
        changed: Vec<String>,
    },
    /// The new jobs could not be used; the old ones stay.
    ReloadRefused {
        /// Why.
        message: String,
    },
    /// The run history could not be written. Work goes on.
    HistoryFailed {
        /// What failed.
        message: String,
    },
    /// The agent was told to stop: nothing new starts.
    Draining {
        /// Jobs still running.
        running: Vec<String>,
    },
    /// The agent has stopped. The last event.
    Stopped,
}
