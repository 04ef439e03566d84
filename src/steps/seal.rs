//! Seals a partition of the audit log: proves its rows against their places, signs what was proven into every repository, and
//! tells the database, which may then let it go. Afterwards takes the places of what is gone out of the side table.
//!
//! Every step can be the last of a run that dies. What is signed is signed for good: the next run finds it, gives it to a
//! repository that lacks it, and goes on; it signs anew only when the archive that was sealed is not the one that is there.
//! Nothing is signed of a chain that contradicts a checkpoint.

use std::time::Duration;

use chrono::NaiveDateTime;

use crate::catalog::{Reading, Repository, StoredSeal};
use crate::host::failpoint::{FailPoint, pass};
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::Occasion;
use crate::model::audit::seal::{Archived, FORMAT, Seal, SealedRanges, Walk, Walked};
use crate::model::audit::tally::Tally;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Severity};
use crate::model::table::QualifiedTable;
use crate::postgres::audit::{ChainSnapshot, Partition, seals, vectors};
use crate::postgres::{Connection, Session};
use crate::steps::checkpoint::{Statement, Terms};
use crate::steps::profiles::settle;
use crate::steps::signed::Signed;
use crate::steps::{Setting, protection};

/// The log that can be sealed.
pub const LOG: (&str, &str) = ("public", "audit_logs");

/// Places taken out of the side table in one transaction.
const PRUNED_AT_ONCE: i32 = 20_000;

/// Longest list of stretches: rows of two months lie interleaved for an hour at most.
const MOST_STRETCHES: usize = 200_000;

/// What sealing needs besides repositories.
#[derive(Clone, Debug)]
pub struct Sealing {
    /// The database, by the role that verifies.
    pub connection: Connection,
    /// What every signed statement says.
    pub terms: Terms,
}

/// What seals.
pub struct Sealer<'a> {
    /// Where the chain is read, and what is said of it.
    pub sealing: &'a Sealing,
    /// Where seals go: every one of them.
    pub repositories: &'a [Repository],
    /// By the role that maintains partitions.
    pub maintenance: &'a Session,
    /// Longest wait for the log's locks.
    pub lock_timeout: Duration,
    /// The run.
    pub setting: &'a Setting,
}

/// Reads the rows of one partition and their places, on one snapshot. How many rows, and what they came to; nothing when a
/// row is not what was hashed, or rows and places do not agree.
pub async fn prove(
    snapshot: &ChainSnapshot,
    partition: &Partition,
    bounds: (&str, &str),
    sealed: &SealedRanges,
) -> Result<(u64, Option<Walked>), Failure> {
    let secret = rand::random();
    let reader = snapshot.reader().await?;
    let (mut tally, mut sound) = (Tally::new(secret), true);
    let each = |row| {
        tally.add(&row);
        sound &= row.is_sound();
    };
    reader.rows(&partition.table, each).await?;
    let mut walk = Walk::new((micros(bounds.0)?, micros(bounds.1)?), sealed, secret);
    if let Some((first, last)) = snapshot.range_of(bounds.0, bounds.1).await? {
        reader.stretch((first - 1).max(1), last, &mut walk).await?;
    }
    reader.end().await?;
    let agrees = sound && tally.agrees(&walk.tally);
    Ok((tally.rows, walk.finish().filter(|_| agrees)))
}

/// Microseconds since 2000-01-01 of an instant as PostgreSQL prints it.
fn micros(text: &str) -> Result<i64, Failure> {
    let read = |text| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    let since = read(text).and_then(|at| read("2000-01-01 00:00:00").map(|epoch| at - epoch));
    let unread = |error| Failure::new(FailureKind::Failed, format!("read {text:?} as a bound")).because(error);
    since
        .map_err(unread)?
        .num_microseconds()
        .ok_or_else(|| Failure::new(FailureKind::Failed, format!("read {text:?} as a bound: it is out of range")))
}

impl Sealer<'_> {
    /// A signed seal of `partition`, whose rows are in `archive`, in every repository and recorded in the database; found or
    /// made. `Integrity` when the rows are not the chain, or not what was sealed before.
    pub async fn ensure(&self, partition: &QualifiedTable, archive: &Archived) -> Result<StoredSeal, Failure> {
        let signed = self.read_and_share().await?;
        let seal = match self.drafted(partition, archive, &signed).await? {
            Drafted::Known(seal) => *seal,
            Drafted::New(seal) => self.sign(*seal).await?,
        };
        seals::record(self.maintenance, &seal.seal, seal.digest).await?;
        pass(FailPoint::SealRecorded)?;
        Ok(seal)
    }

    /// What is signed so far. A repository that lacks a seal which another has is given it.
    async fn read_and_share(&self) -> Result<Signed, Failure> {
        let now = self.setting.clock.now();
        let signed = Signed::read(self.repositories, &[], Reading::Recent, now).await;
        if let Some(trouble) = signed.troubles.first() {
            return Err(Failure::new(FailureKind::Failed, format!("seal a partition: {}", trouble.message)));
        }
        if let Some(fault) = signed.seal_fault() {
            let message = format!("seal a partition: earlier seals cannot be believed: {fault}");
            return Err(Failure::new(FailureKind::Integrity, message)
                .hint("Follow deploy/runbooks/tampering-detected.md: somebody has touched the seals."));
        }
        for repository in self.repositories {
            for seal in signed.lacking(&repository.name) {
                repository.put_seal(seal, self.sealing.terms.locked_until, now).await?;
            }
        }
        Ok(signed)
    }

    async fn drafted(
        &self,
        partition: &QualifiedTable,
        archive: &Archived,
        signed: &Signed,
    ) -> Result<Drafted, Failure> {
        self.setting.events.step(format!("proving {partition} before it is sealed"));
        let clock = self.setting.clock.as_ref();
        let mut snapshot = ChainSnapshot::begin(&self.sealing.connection, self.lock_timeout, clock).await?;
        let settled = settle(&snapshot.pinned, &self.sealing.terms.profiles, signed.profiles());
        if let Some(finding) = settled.finding {
            let message = format!("seal {partition}: {}", finding.message);
            return Err(Failure::new(FailureKind::Integrity, message).hint(
                "Follow deploy/runbooks/tampering-detected.md: somebody has edited the formulas of older rows.",
            ));
        }
        snapshot.profiles = settled.profiles;
        let before = signed.seal_of(partition);
        let known = before.map(|stored| &stored.seal);
        let facts = match snapshot.partitions.iter().find(|each| each.table == *partition) {
            Some(there) => self.facts(&snapshot, there, archive, signed).await?,
            None => gone(partition, archive, known)?,
        };
        let statement = Statement::of(&snapshot, &self.sealing.terms).await?;
        let seals = signed.seals();
        let last = seals.last();
        let seal = Seal {
            format: FORMAT,
            chain: CHAIN.to_owned(),
            number: last.map_or(1, |last| last.seal.number + 1),
            partition: partition.clone(),
            lower: facts.lower,
            upper: facts.upper,
            rows: facts.rows,
            stretches: facts.walked.stretches,
            root: facts.walked.root,
            incarnation: signed.incarnation(),
            archive: archive.clone(),
            origin: statement.origin().clone(),
            schema: statement.schema(),
            profiles: snapshot.profiles.clone(),
            configuration: self.sealing.terms.configuration,
            sealed: self.setting.clock.now(),
            previous: last.map(|last| last.digest),
        };
        let drafted = match before {
            Some(before) if !before.seal.is_of_the_same_rows(&seal) => return Err(differs(partition, before)),
            Some(before) if before.seal.archive.id == archive.id => Drafted::Known(Box::new(before.clone())),
            _ => Drafted::New(Box::new(seal)),
        };
        // What was sealed by hand may go long after; the chain of one that is detached was not looked at here.
        let is_there = snapshot.partitions.iter().any(|each| each.table == *partition);
        if is_there || matches!(drafted, Drafted::New(_)) {
            snapshot.lock_signing().await?;
            self.checkpoint(&statement).await?;
        }
        snapshot.release().await?;
        Ok(drafted)
    }

    /// Proves a partition that is there, on a chain that nothing contradicts.
    async fn facts(
        &self,
        snapshot: &ChainSnapshot,
        partition: &Partition,
        archive: &Archived,
        signed: &Signed,
    ) -> Result<Facts, Failure> {
        let table = &partition.table;
        let refuse = |why: String| {
            Failure::new(FailureKind::Integrity, format!("seal {table}: {why}"))
                .hint("Verify the chain: `dbagent audit verify`; then deploy/runbooks/tampering-detected.md.")
        };
        let (Some(lower), Some(upper)) = (&partition.lower, &partition.upper) else {
            return Err(Failure::new(FailureKind::RefusedForSafety, format!("seal {table}: it has no bounds")));
        };
        vectors::check_copy(snapshot.session()).await?;
        if let Some(changed) = protection::finding(snapshot.session()).await? {
            return Err(refuse(format!("the chain's protection is not as installed: {}", changed.message)));
        }
        let sealed = signed.sealed_away(snapshot).await?;
        let size = snapshot.head.map_or(0, |head| head.seq);
        let hashes = snapshot.hashes_at(&signed.places()).await?;
        let against = signed.against(size, &snapshot.origin, &sealed, |seq| hashes.get(&seq).copied());
        if let Some(finding) = against.first() {
            return Err(refuse(format!("{}: {}", finding.kind, finding.message)));
        }
        let (rows, walked) = prove(snapshot, partition, (lower, upper), &sealed).await?;
        let Some(walked) = walked else {
            return Err(refuse("its rows are not those of the chain".to_owned()));
        };
        if rows != archive.content.rows {
            return Err(refuse(format!("it has {rows} rows, its archive {}", archive.content.rows)));
        }
        if walked.stretches.len() > MOST_STRETCHES {
            return Err(refuse(format!("its rows lie in {} stretches of the chain", walked.stretches.len())));
        }
        Ok(Facts { lower: lower.clone(), upper: upper.clone(), rows, walked })
    }

    /// A checkpoint goes before a partition does, so that the last statement about its rows is younger than the seal's proof.
    async fn checkpoint(&self, statement: &Statement<'_>) -> Result<(), Failure> {
        for repository in self.repositories {
            let before = repository.newest_checkpoint(CHAIN, self.setting.clock.now()).await?;
            statement.sign_into(repository, before.as_ref(), &Occasion::Routine, self.setting).await?;
        }
        Ok(())
    }

    async fn sign(&self, seal: Seal) -> Result<StoredSeal, Failure> {
        let now = self.setting.clock.now();
        self.setting.require_going_on("sign a seal")?;
        let Some(first) = self.repositories.first() else {
            return Err(Failure::new(FailureKind::Usage, "sign a seal: no repository is configured"));
        };
        let signed = first.sign_seal(seal, now)?;
        for repository in self.repositories {
            repository.put_seal(&signed, self.sealing.terms.locked_until, now).await?;
            pass(FailPoint::SealSigned)?;
        }
        self.setting.events.note(format!("sealed {}: {}", signed.seal.partition, signed.key));
        Ok(signed)
    }

    /// Takes the places of partitions that are sealed and gone out of the side table. Only where every repository has the
    /// signed seal; otherwise a finding, and the places stay as evidence.
    pub async fn prune(&self) -> Result<(u64, Vec<Finding>), Failure> {
        let waiting = seals::recorded(self.maintenance).await?;
        let waiting: Vec<_> = waiting.into_iter().filter(|each| !each.is_there && !each.is_pruned).collect();
        let (mut pruned, mut findings) = (0, Vec::new());
        if waiting.is_empty() {
            return Ok((pruned, findings));
        }
        let signed = self.read_and_share().await?;
        let held = signed.seals();
        for each in waiting {
            if !held.iter().any(|stored| Some(stored.digest) == each.digest) {
                let message =
                    format!("{} is gone, and nobody has signed the seal that the database names", each.partition);
                findings.push(
                    Finding::new(Severity::Critical, "seal-not-signed", message)
                        .remedy("verify the chain (`dbagent audit verify`): somebody has taken it away"),
                );
                continue;
            }
            loop {
                self.setting.require_going_on("go on pruning sealed places")?;
                match seals::prune(self.maintenance, &each.partition, PRUNED_AT_ONCE).await? {
                    0 => break,
                    rows => pruned += rows,
                }
                pass(FailPoint::SealPruned)?;
            }
        }
        Ok((pruned, findings))
    }
}

enum Drafted {
    /// It is signed already.
    Known(Box<StoredSeal>),
    /// It is to be signed.
    New(Box<Seal>),
}

/// What a seal says of rows and places.
struct Facts {
    lower: String,
    upper: String,
    rows: u64,
    walked: Walked,
}

/// A partition that is detached already was proven when it was sealed; only its archive may be another.
fn gone(partition: &QualifiedTable, archive: &Archived, known: Option<&Seal>) -> Result<Facts, Failure> {
    match known {
        Some(known) if known.archive.content == archive.content => Ok(Facts {
            lower: known.lower.clone(),
            upper: known.upper.clone(),
            rows: known.rows,
            walked: Walked { stretches: known.stretches.clone(), root: known.root },
        }),
        Some(_) => {
            let message = format!("seal {partition}: it is detached, and has other rows than those that were sealed");
            Err(Failure::new(FailureKind::Integrity, message).hint("Nothing is dropped. Find out who wrote to it."))
        }
        None => {
            let message = format!("seal {partition}: it is no partition of the log any more, and was never sealed");
            Err(Failure::new(FailureKind::Integrity, message)
                .hint("Attach it again, after having compared it with a backup."))
        }
    }
}

fn differs(partition: &QualifiedTable, before: &StoredSeal) -> Failure {
    let message = format!("seal {partition}: {} has sealed other rows or other places", before.key);
    Failure::new(FailureKind::Integrity, message)
        .hint("Nothing is dropped. Verify the chain; then deploy/runbooks/tampering-detected.md.")
}
