//! Witnessing the audit chain from another host, which has no login to the database: do checkpoints keep coming, is each
//! signed and after its predecessor, does the chain never get shorter, is what was seen before still there. What is good is
//! signed once more, by the witness's own key.
//!
//! What was seen last is remembered on this host: a repository that somebody put back to an earlier state is noticed.

use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::{CheckpointHistory, Reading, Repository};
use crate::host::durable::{self, FileError, FileErrorKind};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::{Checkpoint, shrinkage};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::ops::Setting;

/// How to witness.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time without a checkpoint.
    pub silence: TimeDelta,
    /// Folder in which what was seen is remembered.
    pub memory: PathBuf,
}

/// What was seen last in a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    digest: Digest,
    size: i64,
    taken: DateTime<Utc>,
}

/// Looks at every repository.
pub async fn run(repositories: &[Repository], options: &Options, setting: &Setting) -> Result<Outcome, Failure> {
    let (mut findings, mut outcomes) = (Vec::new(), Vec::new());
    let mut newest: Option<Checkpoint> = None;
    for repository in repositories {
        setting.events.step(format!("witnessing the checkpoints in {}", repository.storage.place()));
        let seen = witness(repository, options, &mut findings, setting).await;
        let error = seen.as_ref().err().map(Failure::full_message);
        if let Some(error) = &error {
            let message = format!("the checkpoints in repository {} cannot be witnessed: {error}", repository.name);
            findings.push(Finding::new(Severity::Critical, "witness-failed", message));
        }
        outcomes.push(RepositoryOutcome { repository: repository.name.clone(), error, stored_bytes: 0 });
        newest = newest.into_iter().chain(seen.ok().flatten()).max_by_key(|checkpoint| checkpoint.taken);
    }
    let verdict = if findings.is_empty() { Verdict::Ok } else { Verdict::Findings };
    let summary = match newest {
        Some(newest) => {
            format!("the newest checkpoint is of {}, size {}", newest.taken.format("%Y-%m-%dT%H:%M:%SZ"), newest.size)
        }
        None => "no checkpoint was found".to_owned(),
    };
    Ok(Outcome { verdict, repositories: outcomes, findings, ..Outcome::ok(summary) })
}

async fn witness(
    repository: &Repository,
    options: &Options,
    findings: &mut Vec<Finding>,
    setting: &Setting,
) -> Result<Option<Checkpoint>, Failure> {
    let now = setting.clock.now();
    let read = repository.checkpoint_history(CHAIN, Reading::Thorough, now).await?;
    let memory = options.memory.join(format!("witness-{}.json", repository.name));
    let troubles = troubles(&read, recall(&memory)?.as_ref(), options.silence, now);
    let good = troubles.is_empty();
    findings.extend(troubles.into_iter().map(|what| {
        let message = format!("repository {}: {what}", repository.name);
        Finding::new(Severity::Critical, "CHECKPOINT_MISSING", message)
            .remedy("follow deploy/runbooks/tampering-detected.md")
    }));
    let Some(last) = &read.newest else { return Ok(None) };
    if good {
        repository.cosign_checkpoint(last, now).await?;
        let seen = Seen { digest: last.digest, size: last.checkpoint.size, taken: last.checkpoint.taken };
        let unwritable = |error| Failure::new(FailureKind::Failed, "remember what was witnessed").because(error);
        let bytes = serde_json::to_vec(&seen).map_err(unwritable)?;
        durable::replace(&memory, &bytes).map_err(unreadable)?;
    }
    Ok(Some(last.checkpoint.clone()))
}

/// What is wrong with the checkpoints of a repository, in words.
fn troubles(read: &CheckpointHistory, seen: Option<&Seen>, silence: TimeDelta, now: DateTime<Utc>) -> Vec<String> {
    let mut troubles: Vec<String> = read.faults.first().cloned().into_iter().collect();
    troubles.extend(shrinkage(&read.marks));
    match read.marks.last() {
        None => troubles.push("there is no checkpoint".to_owned()),
        Some(last) if now - last.taken > silence => {
            let since = last.taken.format("%Y-%m-%dT%H:%M:%SZ");
            troubles.push(format!("there was no checkpoint since {since}: the agent is silent"));
        }
        Some(_) => {}
    }
    let is_there = |seen: &&Seen| read.marks.iter().any(|mark| mark.digest == seen.digest);
    if let Some(gone) = seen.filter(|seen| !is_there(seen)) {
        let taken = gone.taken.format("%Y-%m-%dT%H:%M:%SZ");
        troubles.push(format!("the checkpoint of {taken} with {} rows was seen here and is gone", gone.size));
    }
    troubles
}

fn recall(memory: &std::path::Path) -> Result<Option<Seen>, Failure> {
    match durable::read_bounded(memory, 1 << 16) {
        Err(error) if error.kind == FileErrorKind::Missing => Ok(None),
        Err(error) => Err(unreadable(error)),
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            let message = format!("read what was witnessed before in {}", memory.display());
            Failure::new(FailureKind::Failed, message)
                .because(error)
                .hint("Look at the file, and remove it if it is damaged.")
        }),
    }
}

fn unreadable(error: FileError) -> Failure {
    Failure::new(FailureKind::Failed, "remember what was witnessed").because(error)
}
