//! What is protected now: reads every repository and the run history and puts one [`StatusModel`] together.
//!
//! Reading and judging are apart: [`read_repositories`] and [`last_runs`] touch the world, [`assemble`] is pure. Must not
//! fail because one part is unreadable; that part is then unknown, which is never green.

mod cost;
mod drills;
mod window;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::history::{self, Filter, HistoryError, Remembered, RunRecord, RunResult};
use crate::catalog::wal::Coverage;
use crate::catalog::{Artifact, Inventory, Repository, Unsigned};
use crate::model::chain_status::{CalendarStatus, ChainStatus};
use crate::model::cost::CostStatus;
use crate::model::drill::DrillStatus;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::model::outcome::{Finding, Severity, Verdict};
use crate::model::schedule::Schedule;
use crate::model::status::{
    CopyStatus, DumpStatus, Freshness, GoodArtifact, Holdings, JobStatus, LastResult, LastRun, RepositoryStatus,
    StatusModel, WalStatus, longest_age,
};
use crate::model::verb::Verb;
use crate::model::window::RecoveryStatus;
use crate::steps::wal::{GapState, Survey, TimelineSurvey};

pub use cost::storage_cost;
pub use drills::drills;
pub use window::recovery_status;

/// Longest a repository may take to be read before it counts as unreadable.
const READING_TIME: Duration = Duration::from_secs(5 * 60);

/// How far ahead of our clock an artifact may be finished and still count: clocks differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

/// One job of the plan that is switched on.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its name.
    pub name: String,
    /// What it does.
    pub verb: Verb,
    /// Whether this version can run it.
    pub built: bool,
    /// When it is due, by itself or after another; absent when it is run by hand.
    pub schedule: Option<Schedule>,
    /// The database the plan names for it.
    pub database: Option<String>,
    /// How many tables it names; 0 for the whole database.
    pub tables: u64,
    /// The repositories it writes to.
    pub repositories: Vec<String>,
}

/// A repository's name and what it holds, or why that is not known.
pub type Read = (String, Result<Inventory, String>);

/// The newest runs of a job.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    /// The last that ended.
    pub ended: Option<RunRecord>,
    /// One that was begun after it and has not ended.
    pub begun: Option<RunRecord>,
}

/// Everything a status is made of.
#[derive(Debug)]
pub struct Inputs {
    /// The cluster's name.
    pub cluster: String,
    /// The plan's name.
    pub plan: Option<String>,
    /// Its jobs.
    pub jobs: Vec<Job>,
    /// Every configured repository.
    pub repositories: Vec<Read>,
    /// The newest runs by job, or why they are not known.
    pub runs: Result<BTreeMap<String, Runs>, String>,
    /// Archived WAL.
    pub wal: Vec<WalStatus>,
    /// The audit chain.
    pub chain: Option<ChainStatus>,
    /// The months of partitioned tables.
    pub partitions: Vec<CalendarStatus>,
    /// What a point-in-time recovery can reach.
    pub recovery: RecoveryStatus,
    /// The decrypt drills of the recipients.
    pub drills: Vec<DrillStatus>,
    /// What storage costs, where prices are known.
    pub cost: Option<CostStatus>,
}

/// What `survey` says of each timeline in each repository.
pub fn wal_status(survey: &Survey) -> Vec<WalStatus> {
    let of_timeline = |timeline: &TimelineSurvey| {
        let count = |repository: &str, state: GapState| {
            let missing = timeline.missing.iter().filter(|each| each.repository == repository && each.state == state);
            survey.size.map_or(0, |size| missing.map(|each| each.range.count(size)).sum())
        };
        let row = |(repository, coverage): &(String, Coverage)| WalStatus {
            timeline: timeline.timeline,
            repository: repository.clone(),
            first: coverage.ranges.first().map(|range| range.first),
            last: coverage.last(),
            newest: coverage.newest,
            delayed: count(repository, GapState::Delayed),
            lost: count(repository, GapState::Lost),
        };
        timeline.held.iter().map(row).collect::<Vec<_>>()
    };
    survey.timelines.iter().flat_map(of_timeline).collect()
}

/// Reads what every repository holds. `unopened` are those that could not even be opened.
pub async fn read_repositories(
    repositories: &[Repository],
    unopened: &[(String, Failure)],
    now: DateTime<Utc>,
) -> Vec<Read> {
    let reading = repositories.iter().map(|repository| async move {
        let read = tokio::time::timeout(READING_TIME, Inventory::read(repository, Unsigned::Refuse, now));
        let read = match read.await {
            Ok(Ok(inventory)) => Ok(inventory),
            Ok(Err(error)) => Err(Failure::from(error).full_message()),
            Err(_) => {
                Err(format!("read {} within {} minutes", repository.storage.place(), READING_TIME.as_secs() / 60))
            }
        };
        (repository.name.clone(), read)
    });
    let mut read = futures_util::future::join_all(reading).await;
    read.extend(unopened.iter().map(|(name, failure)| (name.clone(), Err(failure.full_message()))));
    read.sort_by(|a, b| a.0.cmp(&b.0));
    read
}

/// The newest runs of each of `jobs` in the history in `folder`, the run `own` left out: it has not ended yet.
pub fn last_runs(folder: &Path, jobs: &[Job], own: RunId) -> Result<BTreeMap<String, Runs>, String> {
    let mut found = BTreeMap::new();
    for job in jobs.iter().filter(|job| job.built) {
        let filter = Filter { job: Some(job.name.clone()), limit: Some(8), ..Filter::default() };
        let remembered = history::read(folder, &filter).map_err(unreadable)?;
        let mut runs = Runs::default();
        for each in remembered {
            match each {
                Remembered::Run(run) if run.run == own => {}
                Remembered::Run(run) if run.end.is_some() => {
                    runs.ended = Some(run);
                    break;
                }
                Remembered::Run(run) if runs.begun.is_none() => runs.begun = Some(run),
                Remembered::Run(_) | Remembered::Skipped(_) => {}
            }
        }
        found.insert(job.name.clone(), runs);
    }
    Ok(found)
}

fn unreadable(error: HistoryError) -> String {
    let message = error.to_string();
    Failure::new(FailureKind::Failed, message).because(error).full_message()
}

/// Puts the status as of `now` together.
pub fn assemble(inputs: &Inputs, now: DateTime<Utc>) -> StatusModel {
    let nothing = BTreeMap::new();
    let runs = inputs.runs.as_ref().unwrap_or(&nothing);
    let model = StatusModel {
        cluster: inputs.cluster.clone(),
        plan: inputs.plan.clone(),
        at: now,
        green: false,
        headline: String::new(),
        jobs: inputs.jobs.iter().map(|job| job_status(job, runs.get(&job.name), &inputs.repositories, now)).collect(),
        repositories: inputs.repositories.iter().map(repository_status).collect(),
        wal: inputs.wal.clone(),
        chain: inputs.chain.clone(),
        partitions: inputs.partitions.clone(),
        recovery: inputs.recovery.clone(),
        drills: inputs.drills.clone(),
        cost: inputs.cost.clone(),
        history_unreadable: inputs.runs.as_ref().err().cloned(),
    };
    model.judged()
}

fn job_status(job: &Job, runs: Option<&Runs>, repositories: &[Read], now: DateTime<Utc>) -> JobStatus {
    JobStatus {
        name: job.name.clone(),
        verb: job.verb,
        built: job.built,
        next: job.schedule.as_ref().and_then(|schedule| schedule.next_after(now)),
        last: runs.and_then(|runs| runs.ended.as_ref()).and_then(last_run),
        running_since: runs.and_then(|runs| runs.begun.as_ref()).map(|run| run.started),
        dump: (job.built && makes_backups(job.verb)).then(|| dump_status(job, repositories, now)),
    }
}

fn last_run(run: &RunRecord) -> Option<LastRun> {
    let end = run.end.as_ref()?;
    let (result, message) = match &end.result {
        RunResult::Done(outcome) => {
            let result = match outcome.verdict {
                Verdict::Ok => LastResult::Ok,
                Verdict::Findings => LastResult::Findings,
                Verdict::Incomplete => LastResult::Incomplete,
                Verdict::Failed => LastResult::Failed,
            };
            (result, outcome.summary.clone())
        }
        RunResult::Failed(failure) => (LastResult::Failed, format!("failed to {}", failure.message)),
        RunResult::Interrupted(why) => (LastResult::Interrupted, why.to_string()),
    };
    Some(LastRun { run: run.run, started: run.started, finished: end.finished, result, message })
}

fn dump_status(job: &Job, repositories: &[Read], now: DateTime<Utc>) -> DumpStatus {
    let limit = job.schedule.as_ref().and_then(|schedule| longest_age(schedule, now));
    let read = |name: &String| repositories.iter().find(|(other, _)| other == name).map(|(_, read)| read);
    let copies: Vec<CopyStatus> =
        job.repositories.iter().map(|name| copy_status(job, name, read(name), limit, now)).collect();
    let newest = copies.iter().find_map(|copy| copy.newest.as_ref());
    DumpStatus {
        database: newest.map(|good| good.database.clone()).or_else(|| job.database.clone()),
        tables: job.tables,
        longest_age_seconds: limit.map(|limit| limit.num_seconds()),
        overdue: copies.iter().any(|copy| matches!(copy.freshness, Freshness::Overdue | Freshness::Missing)),
        copies,
    }
}

fn copy_status(
    job: &Job,
    repository: &str,
    read: Option<&Result<Inventory, String>>,
    limit: Option<TimeDelta>,
    now: DateTime<Utc>,
) -> CopyStatus {
    let repository = repository.to_owned();
    // Damage may be told by the very entries that a broken log has lost.
    let believed = read.and_then(|read| read.as_ref().ok()).filter(|inventory| inventory.broken_log.is_none());
    let Some(inventory) = believed else {
        return CopyStatus { repository, freshness: Freshness::Unknown, newest: None };
    };
    let of_job = inventory.artifacts.iter().filter(|artifact| is_of(artifact, job));
    let newest = of_job.filter_map(|artifact| good(artifact, now)).max_by_key(|good| good.as_of);
    let freshness = match (&newest, limit) {
        (None, _) => Freshness::Missing,
        (Some(good), Some(limit)) if good.age_seconds > limit.num_seconds() => Freshness::Overdue,
        (Some(_), _) => Freshness::Current,
    };
    CopyStatus { repository, freshness, newest }
}

fn is_of(artifact: &Artifact, job: &Job) -> bool {
    artifact.manifest.job == job.name && makes_backups(artifact.manifest.verb)
}

/// An increment's state is as good as a dump's, and its job makes a dump where there is nothing to build upon.
fn makes_backups(verb: Verb) -> bool {
    matches!(verb, Verb::Dump | Verb::Increment | Verb::BaseBackup)
}

/// The artifact, if its bytes were checked, no damage was found, and it is not from the future: a clock that jumped
/// must not make an old backup look new.
fn good(artifact: &Artifact, now: DateTime<Utc>) -> Option<GoodArtifact> {
    let manifest = &artifact.manifest;
    if manifest.finished > now + CLOCK_TOLERANCE {
        return None;
    }
    Some(GoodArtifact {
        id: manifest.id,
        database: manifest.source.database.clone(),
        as_of: manifest.as_of(),
        finished: manifest.finished,
        age_seconds: (now - manifest.as_of()).num_seconds().max(0),
        stored_bytes: manifest.stored_size(),
        verified: artifact.verified?,
    })
}

fn repository_status((name, read): &Read) -> RepositoryStatus {
    let (name, empty) = (name.clone(), Vec::new());
    match read {
        Err(why) => {
            RepositoryStatus { name, holds: None, unreadable: Some(why.clone()), broken_log: None, findings: empty }
        }
        Ok(inventory) => {
            let mut findings = inventory.findings.clone();
            findings.extend(damage(inventory));
            let (holds, broken_log) = (Some(holdings(inventory)), inventory.broken_log.clone());
            RepositoryStatus { name, holds, unreadable: None, broken_log, findings }
        }
    }
}

fn holdings(inventory: &Inventory) -> Holdings {
    let finished = || inventory.artifacts.iter().map(|artifact| artifact.manifest.finished);
    Holdings {
        artifacts: inventory.artifacts.len() as u64,
        bytes: inventory.artifacts.iter().map(|artifact| artifact.manifest.stored_size()).sum(),
        oldest: finished().min(),
        newest: finished().max(),
    }
}

/// A finding for each damaged artifact: critical unless a good one of the same job is newer.
fn damage(inventory: &Inventory) -> impl Iterator<Item = Finding> {
    inventory.artifacts.iter().filter_map(|artifact| {
        let reason = artifact.damaged.as_ref()?;
        let newer = |other: &Artifact| {
            other.verified.is_some()
                && other.manifest.job == artifact.manifest.job
                && other.manifest.finished > artifact.manifest.finished
        };
        let superseded = inventory.artifacts.iter().any(newer);
        let severity = if superseded { Severity::Warning } else { Severity::Critical };
        let message = format!("{} in repository {} is damaged: {reason}", artifact.name, artifact.repository);
        let remedy = format!("dbagent job run {} makes a new one", artifact.manifest.job);
        Some(Finding::new(severity, "artifact-damaged", message).remedy(remedy))
    })
}
