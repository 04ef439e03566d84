//! The verb `audit-checkpoint`: signs size and head of the audit chain into every repository, also when nothing changed,
//! unless the chain contradicts what was signed before. Then it raises an alert, and signs nothing: an agent never signs a
//! chain that it has reason not to believe.
//!
//! Sends again what nobody has acknowledged, because it runs every five minutes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::{Reading, Repository, StoredCheckpoint};
use crate::model::audit::CHAIN;
use crate::model::audit::alert::Subject;
use crate::model::audit::checkpoint::{Occasion, Present, contradictions, last_agreed};
use crate::model::audit::finding::{ChainFinding, FindingKind, fold};
use crate::model::audit::seal::SealedRanges;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::ops::Setting;
use crate::postgres::Connection;
use crate::postgres::audit::ChainSnapshot;
use crate::steps::alert::{self, AlertDoors};
use crate::steps::checkpoint::{Statement, Terms, repository_outcome};
use crate::steps::profiles::settle;
use crate::steps::protection;

/// How to do it.
#[derive(Clone, Debug)]
pub struct Options {
    /// What every checkpoint says.
    pub terms: Terms,
    /// Why the chain was put back, if it was, and on purpose: then nothing that was signed before holds it up.
    pub restored: Option<String>,
    /// Longest wait for the log's locks.
    pub lock_timeout: Duration,
    /// The longest the last signed verification may lie back, where one is expected: past that somebody is told.
    pub longest_unverified: Option<TimeDelta>,
}

/// What the verb works with.
#[derive(Debug)]
pub struct Doors {
    /// The database, by the role that verifies.
    pub connection: Connection,
    /// Where checkpoints go.
    pub repositories: Vec<Repository>,
    /// Repositories that could not be opened, and why.
    pub unopened: Vec<(String, Failure)>,
    /// Where alerts go.
    pub alerts: AlertDoors,
}

/// Signs, or says why not.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let done = setting.unless_stopped("sign a checkpoint", attempt(options, doors, setting)).await;
    let mut told = match &done {
        Ok(done) if !done.findings.is_empty() => {
            alert::raise(&done.findings, &subject(done, setting), &doors.alerts, setting).await?
        }
        _ => alert::deliver(&doors.alerts).await,
    };
    let mut done = done?;
    told.append(&mut done.troubles);
    Ok(outcome(done, told))
}

struct Done {
    size: i64,
    hash: Option<Digest>,
    system_identifier: Option<String>,
    database: String,
    last_good: Option<String>,
    findings: Vec<ChainFinding>,
    troubles: Vec<Finding>,
    repositories: Vec<RepositoryOutcome>,
}

async fn attempt(options: &Options, doors: &Doors, setting: &Setting) -> Result<Done, Failure> {
    let snapshot = ChainSnapshot::begin(&doors.connection, options.lock_timeout, setting.clock.as_ref()).await?;
    let statement = Statement::of(&snapshot, &options.terms).await?;
    let head = snapshot.head;
    let mut done = Done {
        size: head.map_or(0, |head| head.seq),
        hash: head.and_then(|head| head.hash),
        system_identifier: statement.origin().system_identifier.map(|id| id.to_string()),
        database: statement.origin().database.clone(),
        last_good: None,
        findings: Vec::new(),
        troubles: Vec::new(),
        repositories: Vec::new(),
    };
    if head.is_none() {
        let message = "the row of the chain in audit.chain_head is gone";
        done.findings.push(ChainFinding::new(FindingKind::LinkBroken, message));
    }
    done.findings.extend(protection::finding(snapshot.session()).await?);
    done.findings.extend(settle(&snapshot.pinned, &options.terms.profiles, None).finding);
    snapshot.lock_signing().await?;
    for repository in &doors.repositories {
        let signed = one(repository, &statement, &snapshot, options, &mut done, setting).await;
        done.repositories.push(repository_outcome(&repository.name, signed.err().as_ref()));
    }
    if let Some(longest) = options.longest_unverified {
        done.findings.extend(unverified(&doors.repositories, longest, setting.clock.now()).await);
    }
    for (name, failure) in &doors.unopened {
        done.repositories.push(repository_outcome(name, Some(failure)));
    }
    snapshot.release().await?;
    done.findings = fold(&done.findings);
    Ok(done)
}

/// Compares with the newest checkpoint of one repository, and signs the next.
async fn one(
    repository: &Repository,
    statement: &Statement<'_>,
    snapshot: &ChainSnapshot,
    options: &Options,
    done: &mut Done,
    setting: &Setting,
) -> Result<(), Failure> {
    setting.events.step(format!("signing a checkpoint into {}", repository.storage.place()));
    let before = repository.newest_checkpoint(CHAIN, setting.clock.now()).await?;
    if let Some(before) = before.as_ref().filter(|_| options.restored.is_none()) {
        let against = against(repository, before, statement, snapshot, setting).await?;
        let reformed = statement.profile_change(&before.checkpoint);
        let contradicted =
            reformed.is_some() || against.iter().any(|finding| finding.kind != FindingKind::SchemaChanged);
        done.findings.extend(against.into_iter().chain(reformed));
        if contradicted {
            let message =
                format!("sign a checkpoint into {}: the chain contradicts the one of {}", repository.name, before.key);
            return Err(Failure::new(FailureKind::Integrity, message));
        }
    }
    if snapshot.head.is_none() {
        return Err(Failure::new(FailureKind::Integrity, "sign a checkpoint: the chain has no head"));
    }
    done.last_good = before.as_ref().map(|before| before.key.to_string());
    let occasion = match &options.restored {
        None => Occasion::Routine,
        Some(reason) => {
            let kept = kept(repository, snapshot, setting).await?;
            Occasion::Restored { reason: reason.clone(), kept }
        }
    };
    statement.sign_into(repository, before.as_ref(), &occasion, setting).await?;
    Ok(())
}

/// A verification that did not run is no good news: nobody knows. Counted from the first checkpoint where there was none; a
/// repository whose checkpoints cannot be read is told elsewhere.
async fn unverified(repositories: &[Repository], longest: TimeDelta, now: DateTime<Utc>) -> Option<ChainFinding> {
    let mut last: Option<DateTime<Utc>> = None;
    for repository in repositories {
        let Ok(history) = repository.checkpoint_history(CHAIN, Reading::Recent, now).await else { continue };
        let verified = history.marks.iter().rev().find(|mark| mark.verified).or(history.marks.first());
        last = last.max(verified.map(|mark| mark.taken));
    }
    let last = last.filter(|last| now - *last > longest)?;
    let message = format!("no verification of the chain was signed since {}", last.format("%Y-%m-%dT%H:%M:%SZ"));
    Some(ChainFinding::new(FindingKind::VerifyFailedToRun, message))
}

/// The last place of the chain that is as the repository's checkpoints have signed it.
async fn kept(repository: &Repository, snapshot: &ChainSnapshot, setting: &Setting) -> Result<i64, Failure> {
    let now = setting.clock.now();
    let signed = repository.checkpoint_history(CHAIN, Reading::Thorough, now).await?.marks;
    let places: Vec<i64> = signed.iter().map(|mark| mark.size).collect();
    let hashes = snapshot.hashes_at(&places).await?;
    let seals = repository.seals(CHAIN, now).await?.stored;
    let sealed = SealedRanges::of(seals.iter().map(|stored| &stored.seal));
    Ok(last_agreed(&signed, |seq| hashes.get(&seq).copied().or_else(|| sealed.tail_at(seq))))
}

async fn against(
    repository: &Repository,
    before: &StoredCheckpoint,
    statement: &Statement<'_>,
    snapshot: &ChainSnapshot,
    setting: &Setting,
) -> Result<Vec<ChainFinding>, Failure> {
    let signed = &before.checkpoint;
    let size = snapshot.head.map_or(0, |head| head.seq);
    let hashes = snapshot.hashes_at(&[signed.size]).await?;
    // Seals are looked for only when they could explain something: this runs every five minutes.
    let wanted = hashes.is_empty() && signed.size > 0 || statement.gone_since(signed).next().is_some();
    let seals = if wanted { repository.seals(CHAIN, setting.clock.now()).await?.stored } else { Vec::new() };
    let sealed = SealedRanges::of(seals.iter().map(|stored| &stored.seal));
    let present = Present { size, sealed: &sealed, origin: statement.origin() };
    let hash_at = |seq: i64| hashes.get(&seq).copied();
    let mut findings = contradictions(&[before.mark()], &signed.origin, &present, hash_at);
    findings.extend(statement.lost_partitions(signed, &seals));
    findings.extend(statement.schema_change(signed));
    Ok(findings)
}

fn subject(done: &Done, setting: &Setting) -> Subject {
    Subject {
        system_identifier: done.system_identifier.clone(),
        last_good_checkpoint: done.last_good.clone(),
        ..Subject::of(setting.run, done.database.clone())
    }
}

fn outcome(done: Done, told: Vec<Finding>) -> Outcome {
    let mut findings: Vec<Finding> = done.findings.iter().map(ChainFinding::to_finding).collect();
    findings.extend(told);
    let failed = done.repositories.iter().filter(|outcome| outcome.error.is_some()).count();
    if done.repositories.is_empty() {
        let message = "no repository is configured: nobody outside the database knows what the chain was";
        findings.push(Finding::new(Severity::Critical, "checkpoint-nowhere", message));
    }
    let verdict = match (done.findings.is_empty(), failed, findings.is_empty()) {
        (true, 1.., _) => Verdict::Incomplete,
        (true, 0, true) => Verdict::Ok,
        _ => Verdict::Findings,
    };
    let hash = done.hash.map_or("empty".to_owned(), |hash| hash.to_string());
    let signed = done.repositories.len() - failed;
    let summary = format!("checkpoint of the audit chain at {}, {hash}: signed into {signed} repositories", done.size);
    Outcome { verdict, repositories: done.repositories, findings, ..Outcome::ok(summary) }
}
