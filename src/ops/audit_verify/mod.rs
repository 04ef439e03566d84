//! The verb `audit-verify`: whether the audit log is the one chain that its trigger made, every row of it.
//!
//! Log, links, side table and head are read on one snapshot and must say the same; the protection itself must be as
//! installed. The surprising thing: rows are never brought into order. A row's content is hashed as it streams by, rows are
//! linked where they meet, and sums under a secret of the run prove that log and side table hold the same rows in the same
//! order. SQL is asked to name rows only when something is wrong.

mod judge;
mod reading;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use rand::seq::IteratorRandom as _;

use crate::catalog::{Reading as HistoryReading, Repository};
use crate::model::audit::CHAIN;
use crate::model::audit::alert::Subject;
use crate::model::audit::checkpoint::{Occasion, Origin};
use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::audit::link::Segment;
use crate::model::audit::row::RowKey;
use crate::model::audit::seal::SealedRanges;
use crate::model::audit::tally::Places;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, Severity, Verdict};
use crate::ops::Setting;
use crate::postgres::Connection;
use crate::postgres::audit::seals::{self, Recorded};
use crate::postgres::audit::{ChainSnapshot, Partition, vectors};
use crate::steps::alert::{self, AlertDoors};
use crate::steps::checkpoint::{Statement, Terms};
use crate::steps::{profiles, protection, seal};

pub use crate::steps::signed::{Anchor, Signed};
use reading::{Reading, Source};

/// How far before the last verified checkpoint rows are counted again: longer than the trigger lets a row's time lie back.
const OVERLAP: TimeDelta = TimeDelta::hours(2);

/// How much is verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every row.
    Full,
    /// What came after the last signed checkpoint; everything where there is none.
    Incremental,
    /// One partition that is over, chosen at random.
    Sample,
    /// One partition, by name.
    Partition(String),
}

/// How to verify.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much.
    pub scope: Scope,
    /// Sessions that read side by side.
    pub workers: usize,
    /// Longest wait for the log's locks, so that nobody queues behind us for longer.
    pub lock_timeout: Duration,
    /// What the checkpoint of a good verification says.
    pub terms: Terms,
}

/// What the verb works with.
#[derive(Debug)]
pub struct Doors {
    /// The database, by the role that verifies.
    pub connection: Connection,
    /// Where checkpoints lie.
    pub repositories: Vec<Repository>,
    /// Repositories that could not be opened, and why.
    pub unopened: Vec<(String, Failure)>,
    /// Where alerts go.
    pub alerts: AlertDoors,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The one partition that was read, where it was one alone: nothing is known of the others.
    pub alone: Option<String>,
    /// Rows whose content was hashed.
    pub rows: u64,
    /// The newest place of the side table.
    pub seq: i64,
    /// The hash there.
    pub hash: Option<Digest>,
    /// Rows by partition, as far as they were read.
    pub partitions: Vec<(String, u64)>,
    /// Which database.
    pub origin: Origin,
    /// Checkpoints that were compared.
    pub checkpoints: usize,
    /// What is wrong, by kind; nothing of a whole chain.
    pub findings: Vec<ChainFinding>,
}

/// Verifies, raises an alert for what is found, signs what was found whole, and gives the outcome of a run. A verification
/// that does not come to its end is an alert too.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let how = if options.scope == Scope::Full { HistoryReading::Thorough } else { HistoryReading::Recent };
    let signed = Signed::read(&doors.repositories, &doors.unopened, how, setting.clock.now()).await;
    let work = setting.unless_stopped("verify the audit chain", verify_and_sign(options, doors, &signed, setting));
    let (verified, mut troubles) = match work.await {
        Ok(done) => done,
        Err(failure) => return Err(did_not_run(failure, doors, &signed, setting).await),
    };
    let subject = subject(&verified.origin, Some((1, verified.seq)), &signed, setting);
    troubles.extend(alert::raise(&verified.findings, &subject, &doors.alerts, setting).await?);
    troubles.extend(signed.troubles);
    Ok(outcome(&verified, troubles))
}

/// Signs on the very snapshot that was verified, so that the next verification can go on from there.
async fn verify_and_sign(
    options: &Options,
    doors: &Doors,
    signed: &Signed,
    setting: &Setting,
) -> Result<(Verified, Vec<Finding>), Failure> {
    let mut snapshot = ChainSnapshot::begin(&doors.connection, options.lock_timeout, setting.clock.as_ref()).await?;
    let verified = verify_on(&mut snapshot, options, signed, setting).await?;
    let mut troubles = Vec::new();
    if verified.findings.is_empty() && !matches!(options.scope, Scope::Partition(_) | Scope::Sample) {
        let statement = Statement::of(&snapshot, &options.terms).await?;
        snapshot.lock_signing().await?;
        for repository in doors.repositories.iter().filter(|repository| repository.signer.is_some()) {
            if let Err(failure) = sign(repository, &statement, setting).await {
                let message =
                    format!("what was verified is not signed into {}: {}", repository.name, failure.full_message());
                troubles.push(Finding::new(Severity::Warning, "not-signed", message));
            }
        }
    }
    snapshot.release().await?;
    Ok((verified, troubles))
}

async fn sign(repository: &Repository, statement: &Statement<'_>, setting: &Setting) -> Result<(), Failure> {
    let before = repository.newest_checkpoint(CHAIN, setting.clock.now()).await?;
    statement.sign_into(repository, before.as_ref(), &Occasion::Verified, setting).await?;
    Ok(())
}

/// Not verified is not green: unless it was stopped on purpose, somebody is told.
async fn did_not_run(failure: Failure, doors: &Doors, signed: &Signed, setting: &Setting) -> Failure {
    if setting.stop.is_cancelled() || matches!(failure.kind, FailureKind::Usage) {
        return failure;
    }
    let finding = ChainFinding::new(FindingKind::VerifyFailedToRun, failure.full_message());
    let origin = Origin { database: doors.connection.database().to_owned(), ..Origin::default() };
    let subject = subject(&origin, None, signed, setting);
    match alert::raise(&[finding], &subject, &doors.alerts, setting).await {
        Ok(_) => failure,
        Err(untold) => {
            let message = format!("{}; and failed to {}", failure.full_message(), untold.full_message());
            Failure::new(failure.kind, message)
        }
    }
}

fn subject(origin: &Origin, verified: Option<(i64, i64)>, signed: &Signed, setting: &Setting) -> Subject {
    Subject {
        system_identifier: origin.system_identifier.map(|id| id.to_string()),
        verified,
        last_good_checkpoint: signed.newest(),
        ..Subject::of(setting.run, origin.database.clone())
    }
}

/// Verifies on a snapshot of now, and holds it against what was `signed`. Tells nobody.
pub async fn verify(
    options: &Options,
    connection: &Connection,
    signed: &Signed,
    setting: &Setting,
) -> Result<Verified, Failure> {
    let mut snapshot = ChainSnapshot::begin(connection, options.lock_timeout, setting.clock.as_ref()).await?;
    let verified = verify_on(&mut snapshot, options, signed, setting).await?;
    snapshot.release().await?;
    Ok(verified)
}

async fn verify_on(
    snapshot: &mut ChainSnapshot,
    options: &Options,
    signed: &Signed,
    setting: &Setting,
) -> Result<Verified, Failure> {
    vectors::check_copy(snapshot.session()).await?;
    let mut findings: Vec<ChainFinding> = protection::finding(snapshot.session()).await?.into_iter().collect();
    let settled = profiles::settle(&snapshot.pinned, &options.terms.profiles, signed.profiles());
    snapshot.profiles = settled.profiles;
    findings.extend(settled.finding);
    let recorded = seals::recorded(snapshot.session()).await?;
    signed.require_seals(&recorded)?;
    let sealed = signed.sealed_away(snapshot).await?;
    let work = Work { options, setting, snapshot, signed, sealed, recorded };
    let mut verified = match &options.scope {
        Scope::Full => work.whole().await?,
        Scope::Incremental => work.incremental().await?,
        Scope::Partition(name) => work.partition(name).await?,
        Scope::Sample => match work.any_closed() {
            Some(name) => work.partition(&name).await?,
            None => work.whole().await?,
        },
    };
    findings.append(&mut verified.findings);
    Ok(Verified { findings, ..verified })
}

struct Work<'a> {
    options: &'a Options,
    setting: &'a Setting,
    snapshot: &'a ChainSnapshot,
    signed: &'a Signed,
    /// What is sealed and gone.
    sealed: SealedRanges,
    /// What the database says of seals.
    recorded: Vec<Recorded>,
}

impl Work<'_> {
    async fn whole(&self) -> Result<Verified, Failure> {
        self.setting.events.step(format!("verifying {} partitions of the audit log", self.snapshot.partitions.len()));
        let table = |partition: &Partition| Source::Partition(partition.table.clone());
        let sources: Vec<Source> = self.snapshot.partitions.iter().map(table).collect();
        let places = Places::new(secret(), self.sealed.by_first(), self.signed.places());
        let reading = self.read(&sources, places, &self.sealed.segments()).await?;
        let mut findings = self.judge(&reading).await?;
        findings.extend(self.against(reading.places.seq, |seq| reading.places.hash_at(seq)));
        if !findings.iter().any(|finding| finding.kind == FindingKind::UnsealedRemoval) {
            findings.extend(self.unsealed());
        }
        let names = self.snapshot.partitions.iter().map(|partition| partition.table.name.clone());
        let partitions = names.zip(reading.by_source.iter().copied()).collect();
        Ok(self.verified(&reading, partitions, findings))
    }

    /// What came after the last verified checkpoint; everything where there is none, or where the chain is not the one that
    /// was signed there.
    async fn incremental(&self) -> Result<Verified, Failure> {
        let Some((anchor, taken)) = self.signed.anchor() else { return self.whole().await };
        let hashes = self.snapshot.hashes_at(&self.signed.places()).await?;
        let end = self.snapshot.head.map_or(0, |head| head.seq);
        let against = self.against(end, |seq| hashes.get(&seq).copied());
        if !against.is_empty() || hashes.get(&anchor.seq) != Some(&anchor.hash) || self.unsealed().is_some() {
            return self.whole().await;
        }
        self.setting.events.step(format!("verifying rows after place {} of the audit chain", anchor.seq));
        let places = Places::new(secret(), BTreeMap::new(), []).after(anchor.seq, Some(anchor.hash));
        let rows = u64::try_from(anchor.seq).unwrap_or_default();
        let before = Segment { after: None, first: RowKey::default(), tail: anchor.hash, rows };
        let reading = self.read(&[Source::After(anchor.seq)], places, &[before]).await?;
        if !judge::is_whole(&reading, self.snapshot.head) || !self.as_many_rows_as_places(taken).await? {
            // Whatever it is, all of it is wanted now.
            return self.whole().await;
        }
        Ok(self.verified(&reading, Vec::new(), Vec::new()))
    }

    /// Rows that have no place are met only when all rows are read; here they show in their number.
    async fn as_many_rows_as_places(&self, since: DateTime<Utc>) -> Result<bool, Failure> {
        let from = (since - OVERLAP).format("%Y-%m-%d %H:%M:%S").to_string();
        let (rows, places) = self.snapshot.counts_from(&from).await?;
        Ok(rows == places)
    }

    fn against(&self, size: i64, hash_at: impl Fn(i64) -> Option<Digest>) -> Vec<ChainFinding> {
        self.signed.against(size, &self.snapshot.origin, &self.sealed, hash_at)
    }

    fn unsealed(&self) -> Option<ChainFinding> {
        self.signed.unsealed(&self.snapshot.partitions, &self.recorded)
    }

    fn verified(&self, reading: &Reading, partitions: Vec<(String, u64)>, findings: Vec<ChainFinding>) -> Verified {
        Verified {
            alone: None,
            rows: reading.rows.tally.rows,
            seq: reading.places.seq,
            hash: reading.places.hash,
            partitions,
            origin: self.snapshot.origin.clone(),
            checkpoints: self.signed.count(),
            findings,
        }
    }

    async fn read(&self, sources: &[Source], places: Places, known: &[Segment]) -> Result<Reading, Failure> {
        reading::read(self.snapshot, sources, places, known, self.options.workers, self.setting).await
    }

    async fn judge(&self, reading: &Reading) -> Result<Vec<ChainFinding>, Failure> {
        if judge::is_whole(reading, self.snapshot.head) {
            return Ok(Vec::new());
        }
        self.setting.events.step("something is wrong: looking for the rows");
        judge::findings(reading, self.snapshot, &self.sealed).await
    }

    /// The name of some partition that takes no more rows.
    fn any_closed(&self) -> Option<String> {
        let now = self.setting.clock.now().format("%Y-%m-%d %H:%M:%S").to_string();
        // PostgreSQL prints times of these centuries so that they sort as text.
        let is_closed = |partition: &&Partition| {
            partition.lower.is_some() && partition.upper.as_ref().is_some_and(|upper| *upper <= now)
        };
        let closed = self.snapshot.partitions.iter().filter(is_closed);
        closed.choose(&mut rand::rng()).map(|partition| partition.table.name.clone())
    }

    /// The rows of one partition against their places, and those against what is signed. That the places between two signed
    /// ones are one chain is left to a whole verification.
    async fn partition(&self, name: &str) -> Result<Verified, Failure> {
        let fits = |partition: &&Partition| partition.table.name == name;
        let Some(partition) = self.snapshot.partitions.iter().find(fits) else {
            let message = format!("verify the partition {name}: the audit log has none of that name");
            return Err(
                Failure::new(FailureKind::NothingMatches, message).hint("`\\d+ audit_logs` in psql lists them.")
            );
        };
        let (Some(lower), Some(upper)) = (&partition.lower, &partition.upper) else {
            let message = format!("verify the partition {name} alone: it has no bounds");
            return Err(Failure::new(FailureKind::Usage, message).hint("`dbagent audit verify` verifies all rows."));
        };
        self.setting.events.step(format!("verifying {name}"));
        let (rows, walked) = seal::prove(self.snapshot, partition, (lower, upper), &self.sealed).await?;
        let (seq, hash) = self.snapshot.head.map_or((0, None), |head| (head.seq, head.hash));
        let hashes = self.snapshot.hashes_at(&self.signed.places()).await?;
        let against = self.against(seq, |seq| hashes.get(&seq).copied());
        if walked.is_none() || !against.is_empty() {
            // Which rows differ is a question to both tables as a whole.
            return self.whole().await;
        }
        let (origin, partitions) = (self.snapshot.origin.clone(), vec![(name.to_owned(), rows)]);
        let (checkpoints, alone, findings) = (self.signed.count(), Some(name.to_owned()), Vec::new());
        Ok(Verified { alone, rows, seq, hash, partitions, origin, checkpoints, findings })
    }
}

fn secret() -> [u8; 16] {
    rand::random()
}

/// The outcome of a run: green only of a whole chain, and of alerts that reach somebody.
fn outcome(verified: &Verified, troubles: Vec<Finding>) -> Outcome {
    let head = verified.hash.map_or("empty".to_owned(), |hash| hash.to_string());
    let Verified { rows, seq, checkpoints, .. } = verified;
    let mut findings: Vec<Finding> = verified.findings.iter().map(ChainFinding::to_finding).collect();
    findings.extend(troubles);
    let kinds: Vec<&str> = verified.findings.iter().map(|finding| finding.kind.name()).collect();
    let summary = match &verified.alone {
        _ if !kinds.is_empty() => format!("the audit chain is NOT whole: {}", kinds.join(", ")),
        None => format!(
            "the audit chain is whole: {rows} rows verified against {checkpoints} checkpoints, head at {seq}, {head}"
        ),
        Some(name) => format!(
            "{name} is as it was chained: {rows} rows verified, and all places against {checkpoints} checkpoints; rows of \
             other partitions were not looked at"
        ),
    };
    let verdict = if findings.is_empty() { Verdict::Ok } else { Verdict::Findings };
    Outcome { verdict, findings, ..Outcome::ok(summary) }
}
