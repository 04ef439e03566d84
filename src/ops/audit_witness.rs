//! Witnessing the audit chain from another host: do checkpoints keep coming, is each signed and after its predecessor, does
//! the chain never get shorter, is what was seen before still there. What is good is signed once more, by the witness's own
//! key. That needs no login to the database; a witness that has one also computes, for some neighbouring checkpoints, that the
//! rows between lead from the one hash to the other.
//!
//! What was seen last is remembered on this host: a repository that somebody put back to an earlier state is noticed.

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::seq::IteratorRandom as _;
use serde::{Deserialize, Serialize};

use crate::catalog::{CheckpointHistory, Reading, Repository};
use crate::host::durable::{self, FileError, FileErrorKind};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::{Checkpoint, Mark, shrinkage};
use crate::model::audit::finding::FindingKind;
use crate::model::audit::link::{Linker, Segment};
use crate::model::audit::profile::Profiles;
use crate::model::audit::row::RowKey;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::ops::Setting;
use crate::postgres::Connection;
use crate::postgres::audit::ChainSnapshot;
use crate::postgres::audit::snapshot::Reader;
use crate::steps::profiles::settle;

/// Rows between two checkpoints that are computed at most: more than come in five minutes, less than a verification reads.
const MOST_ROWS: i64 = 1_000_000;

/// Segments that may wait while rows are linked.
const PARKED: usize = 60_000;

/// How to witness.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time without a checkpoint.
    pub silence: TimeDelta,
    /// Folder in which what was seen is remembered.
    pub memory: PathBuf,
    /// How the database is asked, where the witness has a login to it.
    pub sample: Option<Sample>,
}

/// Which rows a witness computes itself.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The database, by the role that verifies.
    pub connection: Connection,
    /// How many pairs of neighbouring checkpoints, drawn anew each time.
    pub pairs: usize,
    /// Longest wait for the log's locks.
    pub lock_timeout: Duration,
    /// The formulas that are configured for older rows.
    pub profiles: Profiles,
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
    let mut told: Vec<(FindingKind, String)> =
        troubles.into_iter().map(|what| (FindingKind::CheckpointMissing, what)).collect();
    if let Some(sample) = &options.sample {
        let signed = read.newest.as_ref().map(|newest| newest.checkpoint.profiles);
        let broken = extension(sample, repository, &read.marks, signed, setting).await?;
        told.extend(broken);
    }
    let good = told.is_empty();
    findings.extend(told.into_iter().map(|(kind, what)| {
        let message = format!("repository {}: {what}", repository.name);
        Finding::new(Severity::Critical, kind.name(), message).remedy("follow deploy/runbooks/tampering-detected.md")
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

/// Computes from one signed hash to the next, for some pairs. What does not lead there, in words; or that the formulas by which
/// it would be computed are not those that were signed.
async fn extension(
    sample: &Sample,
    repository: &Repository,
    marks: &[Mark],
    signed: Option<Option<Digest>>,
    setting: &Setting,
) -> Result<Option<(FindingKind, String)>, Failure> {
    let seals = repository.seals(CHAIN, setting.clock.now()).await?.stored;
    let stretches: Vec<(i64, i64)> =
        seals.iter().flat_map(|stored| stored.seal.stretches.iter().map(|each| (each.first, each.last))).collect();
    let pairs = comparable(marks, &stretches).choose_multiple(&mut rand::rng(), sample.pairs);
    let mut snapshot = ChainSnapshot::begin(&sample.connection, sample.lock_timeout, setting.clock.as_ref()).await?;
    let settled = settle(&snapshot.pinned, &sample.profiles, signed);
    snapshot.profiles = settled.profiles;
    let reader = snapshot.reader().await?;
    let mut broken = settled.finding.map(|finding| (finding.kind, finding.message));
    for (from, to) in pairs {
        setting.require_going_on("compute the next rows")?;
        if broken.is_none() && !leads(&reader, from, to).await? {
            let taken = to.taken.format("%Y-%m-%dT%H:%M:%SZ");
            let places = format!("the rows of places {} to {}", from.size + 1, to.size);
            let what = format!("{places} do not lead to the hash that the checkpoint of {taken} has signed");
            broken = Some((FindingKind::HistoryRewritten, what));
            break;
        }
    }
    reader.end().await?;
    snapshot.release().await?;
    Ok(broken)
}

/// Neighbours with rows between them, none of which is sealed, since the chain was put back last.
fn comparable<'a>(marks: &'a [Mark], sealed: &'a [(i64, i64)]) -> impl Iterator<Item = (&'a Mark, &'a Mark)> {
    let now = marks.last().map(|last| last.incarnation);
    let is_sealed = |from: &Mark, to: &Mark| sealed.iter().any(|(first, last)| *first <= to.size && *last > from.size);
    marks.windows(2).map(|pair| (&pair[0], &pair[1])).filter(move |(from, to)| {
        let rows = to.size - from.size;
        Some(from.incarnation) == now && rows > 0 && rows <= MOST_ROWS && !is_sealed(from, to)
    })
}

async fn leads(reader: &Reader, from: &Mark, to: &Mark) -> Result<bool, Failure> {
    let (mut linker, mut sound) = (Linker::new(PARKED), true);
    if let Some(tail) = from.hash {
        let rows = u64::try_from(from.size).unwrap_or_default();
        linker.add_segment(Segment { after: None, first: RowKey::default(), tail, rows });
    }
    let each = |row: crate::model::audit::row::RowFacts| {
        sound &= row.is_sound();
        linker.add(&row);
    };
    reader.rows_between(from.size, to.size, each).await?;
    let linked = linker.finish();
    let whole = |segment: &Segment| Some(segment.tail) == to.hash && i64::try_from(segment.rows) == Ok(to.size);
    Ok(sound && linked.whole().is_some_and(whole))
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
