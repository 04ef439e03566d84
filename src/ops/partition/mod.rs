//! The verb `partition`: makes the months ahead, and takes away those whose time is over once they are safely archived.
//!
//! Making comes first and never waits for dropping: each change is a transaction of its own. A partition goes in the order
//! verify -> archive -> read back -> (audit: seal) -> detach -> drop; what is missing for it is a finding, and the partition
//! stays. On a standby there is nothing to do.

mod archive;
mod convert;
mod retire;
mod seal;

use crate::host::failpoint::{FailPoint, pass};
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, Severity, Verdict};
use crate::model::partition::Make;
use crate::ops::Setting;
use crate::postgres::partitions::{Maintenance, Patience};
use crate::postgres::{Connection, PostgresError, PostgresErrorKind, ServerFacts, Session};
use crate::steps::artifact;
use crate::steps::partitions::{record_findings, survey};
use crate::steps::seal::Sealing;

pub use crate::postgres::partitions::convert::Phase;
pub use crate::steps::partitions::{Surveyed, TableRule};
pub use archive::{Archives, Ready};
pub use convert::{ConvertPlan, Converter};
pub use seal::{Due, due, seal};

/// Tries for a lock before it is a finding.
const ATTEMPTS: u32 = 5;

/// What to maintain.
#[derive(Clone, Debug)]
pub struct Options {
    /// The tables and what is wanted of each.
    pub rules: Vec<TableRule>,
    /// How archives of single partitions are made; the tables are left to us.
    pub archive: artifact::Options,
    /// Leave every detached partition as a table.
    pub keep_detached: bool,
}

/// What it is maintained with.
#[derive(Debug)]
pub struct Doors {
    /// By the role that may call the functions.
    pub connection: Connection,
    /// By a role that may read all rows.
    pub reader: Connection,
    /// What archives are made with, or why none can be: making partitions does not wait for that.
    pub archive: Result<artifact::Doors, Failure>,
    /// What the audit log's partitions are sealed with; without it none of them goes.
    pub sealing: Option<Sealing>,
}

/// What there is and what would be done, or nothing on a standby.
pub async fn look(options: &Options, doors: &Doors, setting: &Setting) -> Result<Option<Vec<Surveyed>>, Failure> {
    let maintenance = Maintenance::connect(&doors.connection).await?;
    if ServerFacts::read(maintenance.session()).await?.in_recovery {
        return Ok(None);
    }
    let reader = Maintenance::connect(&doors.reader).await?;
    let mut all = Vec::new();
    for rule in &options.rules {
        all.push(survey(&maintenance, reader.session(), rule, setting.clock.now()).await?);
    }
    Ok(Some(all))
}

/// Maintains every table. One that cannot be maintained does not hold up the others.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let maintenance = Maintenance::connect(&doors.connection).await?;
    let facts = ServerFacts::read(maintenance.session()).await?;
    if facts.in_recovery {
        return Ok(Outcome::ok("a standby: partitions are maintained on the primary"));
    }
    maintenance.require_installed().await?;
    take_the_lock(&maintenance).await?;
    let reader = Maintenance::connect(&doors.reader).await?;
    let archives = Archives::new(&options.archive, doors, &facts, setting);
    let mut done = Done::default();
    for rule in &options.rules {
        setting.require_going_on("go on with the next table")?;
        setting.events.step(format!("maintaining the partitions of {}", rule.name));
        let (maintenance, archives, sealing) = (&maintenance, &archives, doors.sealing.as_ref());
        let work = Work { options, rule, maintenance, reader: reader.session(), archives, sealing, setting };
        if let Err(failure) = work.carry_out(&mut done).await {
            if maintenance.session().is_closed() {
                return Err(failure);
            }
            let message = format!("{} was not maintained to the end: {}", rule.name, failure.full_message());
            done.find(Finding::new(Severity::Critical, "partition-maintenance-failed", message), failure.hint);
        }
    }
    Ok(done.outcome(options.rules.len()))
}

/// One run at a time maintains a database.
async fn take_the_lock(maintenance: &Maintenance) -> Result<(), Failure> {
    maintenance.lock().await.map_err(|error| match error.kind {
        PostgresErrorKind::LockTimeout => {
            Failure::new(FailureKind::LockHeld, error.message.clone()).hint(error.hint.clone().unwrap_or_default())
        }
        _ => error.into(),
    })
}

/// What was done so far.
#[derive(Debug, Default)]
struct Done {
    made: u64,
    moved: u64,
    archived: u64,
    detached: u64,
    dropped: u64,
    pruned: u64,
    findings: Vec<Finding>,
}

impl Done {
    fn find(&mut self, finding: Finding, remedy: Option<String>) {
        self.findings.push(match remedy {
            Some(remedy) => finding.remedy(remedy),
            None => finding,
        });
    }

    fn outcome(self, tables: usize) -> Outcome {
        let Self { made, moved, archived, detached, dropped, pruned, findings } = self;
        let mut parts = vec![format!("{made} made")];
        let more = [(moved, "rows moved out of default"), (archived, "archived"), (detached, "detached and kept")];
        parts.extend(more.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")));
        parts.push(format!("{dropped} dropped"));
        parts.extend((pruned > 0).then(|| format!("{pruned} places of sealed rows pruned")));
        let summary = format!("partitions of {tables} tables: {}", parts.join(", "));
        let verdict = if findings.is_empty() { Verdict::Ok } else { Verdict::Findings };
        Outcome { verdict, findings, ..Outcome::ok(summary) }
    }
}

/// One table being maintained.
struct Work<'a> {
    options: &'a Options,
    rule: &'a TableRule,
    maintenance: &'a Maintenance,
    reader: &'a Session,
    archives: &'a Archives<'a>,
    sealing: Option<&'a Sealing>,
    setting: &'a Setting,
}

impl Work<'_> {
    fn patience(&self) -> Patience<'_> {
        Patience { lock_timeout: self.rule.lock_timeout, attempts: ATTEMPTS, clock: self.setting.clock.as_ref() }
    }

    async fn survey(&self) -> Result<Surveyed, Failure> {
        survey(self.maintenance, self.reader, self.rule, self.setting.clock.now()).await
    }

    async fn carry_out(&self, done: &mut Done) -> Result<(), Failure> {
        let before = self.survey().await?;
        let Some((origin, _)) = &before.found else {
            done.findings.extend(before.findings);
            return Ok(());
        };
        self.maintenance.see(&origin.table).await?;
        for partition in &before.plan.finish {
            let finished = self.maintenance.finish_detach(&origin.table, partition, self.patience()).await;
            self.told(finished, "detach-not-finished", done)?;
        }
        // What was finished is no partition any more, and waits among what is left.
        let before = if before.plan.finish.is_empty() { before } else { self.survey().await? };
        let Some((origin, _)) = &before.found else { return Ok(()) };
        done.findings.extend(before.plan.findings.iter().cloned());
        for make in &before.plan.make {
            self.setting.require_going_on("make the next partition")?;
            self.make(origin, make, done).await?;
        }
        self.take_away_what_is_left(origin, done).await?;
        for retire in &before.plan.retire {
            self.setting.require_going_on("drop the next partition")?;
            self.retire(&before, retire, done).await?;
        }
        self.prune_sealed(done).await?;
        // What is alarming now that everything was tried.
        let after = self.survey().await?;
        done.findings.extend(after.findings.iter().cloned());
        done.findings.extend(record_findings(self.maintenance, &after).await?);
        Ok(())
    }

    async fn make(
        &self,
        origin: &crate::postgres::partitions::Origin,
        make: &Make,
        done: &mut Done,
    ) -> Result<(), Failure> {
        let made = self.maintenance.make(&origin.table, make, self.patience()).await;
        if let Some(moved) = self.told(made, "partition-not-made", done)? {
            (done.made, done.moved) = (done.made + 1, done.moved + moved);
            self.setting.events.note(format!("made {} ({})", make.table, make.reason));
            pass(FailPoint::PartitionMade)?;
        }
        Ok(())
    }

    /// A failure that does not end the run becomes a finding.
    fn told<T>(&self, result: Result<T, PostgresError>, code: &str, done: &mut Done) -> Result<Option<T>, Failure> {
        let error = match result {
            Ok(value) => return Ok(Some(value)),
            Err(error) if self.maintenance.session().is_closed() => return Err(error.into()),
            Err(error) => error,
        };
        let busy = error.kind == PostgresErrorKind::LockTimeout;
        let tries = if busy { format!(", in {ATTEMPTS} tries of {:?}", self.rule.lock_timeout) } else { String::new() };
        let finding = Finding::new(Severity::Critical, code, format!("failed to {}{tries}", error.full_message()));
        let remedy = "see pg_locks for who holds the table; the next run tries again".to_owned();
        done.find(finding, if busy { Some(remedy) } else { error.hint });
        Ok(None)
    }
}
