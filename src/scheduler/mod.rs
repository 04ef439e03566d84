//! Who runs when: due, lead, run, record, catch up, drain.
//!
//! Knows no verb: a job is a name, a schedule and limits, and work is done by a [`Runner`] that app injects, as are
//! leadership and jobs. `due` and `retry` are pure rules, `board` applies them to the state of every job and says
//! what to do, `agent` does it: one loop, the only owner of that state. The surprising thing: the board takes time
//! only as a parameter, so that a test lives through centuries of suspends and clock steps in seconds.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::catalog::history::{RecordedFailure, RunRecord};
use crate::model::event::Events;
use crate::model::failure::Failure;
use crate::model::id::{ArtifactId, RunId};
use crate::model::outcome::Outcome;
use crate::model::schedule::Schedule;
use crate::model::side::Side;
use crate::model::verb::Verb;

mod agent;
mod board;
pub mod due;
mod event;
mod place;
pub mod retry;

pub use agent::{Agent, Doors};
pub use due::CatchUp;
pub use event::AgentEvent;
pub use retry::RetryPolicy;

/// What the scheduler needs to know of one job.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Its name in the plan; no two jobs share one.
    pub name: String,
    /// What it does; told and recorded, not interpreted.
    pub verb: Verb,
    /// When it runs.
    pub schedule: Schedule,
    /// What becomes of missed runs.
    pub catch_up: CatchUp,
    /// A run starts up to this much later than scheduled, at random.
    pub jitter: Duration,
    /// A run that takes longer is stopped.
    pub timeout: Option<Duration>,
    /// Whether and when it is tried again.
    pub retry: RetryPolicy,
    /// On which side of a replication it runs: a leader on the other one leaves it alone.
    pub side: Side,
}

/// Limits of the agent as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Scheduled runs of different jobs at the same time; a manual run is not held back by it.
    pub at_once: usize,
    /// From the signal to stop to the end, in all. Runs are left alone for the first three fifths of it, then
    /// cancelled, and dropped at its end.
    pub grace: Duration,
    /// From the cancelling of a run (timeout, lost leadership) until it is dropped.
    pub cancel_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { at_once: 2, grace: Duration::from_secs(25), cancel_grace: Duration::from_secs(30) }
    }
}

/// One run to be carried out.
#[derive(Clone, Debug)]
pub struct RunRequest {
    /// The job's name.
    pub job: String,
    /// The run's identity.
    pub run: RunId,
    /// The instant it is for.
    pub scheduled: DateTime<Utc>,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// The only repositories to write to; empty for all.
    pub only_repositories: Vec<String>,
    /// The artifact of an earlier attempt that those repositories lack.
    pub completes: Option<ArtifactId>,
    /// Proves to the catalog who leads.
    pub fencing_token: u64,
    /// Cancelled when the run must stop: abort what is open, commit nothing, return.
    pub cancel: CancellationToken,
    /// Where the run tells what it does.
    pub events: Events,
}

/// Carries out runs. Must return soon after the request's token is cancelled; if it does not, its future is dropped.
#[async_trait]
pub trait Runner: Send + Sync {
    /// Carries out one run.
    async fn run(&self, request: RunRequest) -> Result<Outcome, Failure>;
}

/// Whether this agent may start anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leadership {
    /// It may.
    Leader {
        /// Grows with each change of leader. Runs begun under another token are cancelled.
        fencing_token: u64,
        /// On which side of a replication it leads.
        side: Side,
        /// What earlier leaders are known to have settled: the last scheduled instant, by job. Others count from what
        /// this agent's own history says.
        handled: BTreeMap<String, DateTime<Utc>>,
    },
    /// It waits: another leads.
    Follower,
    /// It waits, and why; whether another leads is not known.
    Apart(RecordedFailure),
}

/// What the agent can be asked while it runs.
#[derive(Debug)]
pub enum Command {
    /// Run a job now. Answered when the run has ended, or at once if it cannot be begun.
    Run {
        /// The job's name.
        job: String,
        /// Receives the ended run.
        answer: oneshot::Sender<Result<RunRecord, Failure>>,
    },
    /// Replace the jobs, unless loading them failed. Runs go on.
    Reload(Result<Vec<Job>, Failure>),
    /// Tell what every job does.
    Status(oneshot::Sender<Vec<JobStatus>>),
    /// Stop within the grace; a second time, stop at once.
    Stop,
}

/// What one job does at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobStatus {
    /// The job's name.
    pub job: String,
    /// What it does.
    pub verb: Verb,
    /// The next scheduled instant.
    pub next: Option<DateTime<Utc>>,
    /// Its present run.
    pub running: Option<RunRecord>,
    /// When a run that is due will start, at the soonest: jitter, retries and the limit of runs at once hold it back.
    pub waiting_until: Option<DateTime<Utc>>,
}
