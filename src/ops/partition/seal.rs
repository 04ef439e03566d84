//! Seals between the archive and the drop: by the job for what is past its retention, by hand for any month that is over.
//!
//! What lets a partition go is the signed object in every repository; the database's row of it comes afterwards, and alone
//! opens nothing.

use chrono::{DateTime, TimeDelta, Utc};

use crate::host::failpoint::{FailPoint, pass};
use crate::model::audit::seal::Archived;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, Severity, Verdict};
use crate::model::partition::{Parent, Partition, Seal};
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::ops::partition::{Archives, Doors, Options, Ready, TableRule, Work, take_the_lock};
use crate::postgres::ServerFacts;
use crate::postgres::partitions::Maintenance;
use crate::steps::partitions::survey;
use crate::steps::seal::{LOG, Sealer, Sealing};

/// How long a month must be over before it can be sealed: the trigger takes rows that are an hour late.
const SETTLED: TimeDelta = TimeDelta::hours(2);

/// A partition that is to be sealed, and why not.
#[derive(Clone, Debug)]
pub struct Due {
    /// The partition.
    pub partition: Partition,
    /// Whether its retention is over.
    pub is_past_retention: bool,
    rule: TableRule,
}

impl Work<'_> {
    fn sealer<'a>(&'a self, sealing: &'a Sealing) -> Result<Sealer<'a>, Failure> {
        Ok(Sealer {
            sealing,
            repositories: self.archives.repositories()?,
            maintenance: self.maintenance.session(),
            lock_timeout: self.rule.lock_timeout,
            setting: self.setting,
        })
    }

    /// The seal of a partition whose archive is `ready`; made where there is none. Without one the gate stays shut.
    pub(super) async fn sealed(
        &self,
        partition: &Partition,
        ready: Ready,
        done: &mut super::Done,
    ) -> Result<Option<Seal>, Failure> {
        let Some(sealing) = self.sealing.filter(|_| is_of_the_log(&partition.table)) else { return Ok(None) };
        let archive = Archived { id: ready.archive.id, content: ready.archive.content, copies: ready.copies };
        match self.sealer(sealing)?.ensure(&partition.table, &archive).await {
            // What the gate of the database will find, which is not what has decided.
            Ok(_) => Ok(self.maintenance.seal(partition.oid).await?),
            Err(failure) if self.maintenance.session().is_closed() => Err(failure),
            Err(failure) => {
                let message = format!("failed to {}", failure.full_message());
                done.find(Finding::new(Severity::Critical, "partition-seal-failed", message), failure.hint);
                Ok(None)
            }
        }
    }

    /// Takes the places of what is sealed and gone out of the chain's side table.
    pub(super) async fn prune_sealed(&self, done: &mut super::Done) -> Result<(), Failure> {
        let Some(sealing) = self.sealing.filter(|_| self.rule.rule.seal && self.rule.name.name == LOG.1) else {
            return Ok(());
        };
        match self.sealer(sealing)?.prune().await {
            Ok((rows, findings)) => {
                done.pruned += rows;
                done.findings.extend(findings);
            }
            Err(failure) => {
                let message = format!("places of sealed partitions were not pruned: {}", failure.full_message());
                done.find(Finding::new(Severity::Warning, "seal-not-pruned", message), failure.hint);
            }
        }
        Ok(())
    }
}

/// Whether it is, or was, a partition of the audit log: its schema, and the beginning of its name that only ours have.
fn is_of_the_log(table: &QualifiedTable) -> bool {
    table.schema == LOG.0 && table.name.strip_prefix(LOG.1).is_some_and(|rest| rest.starts_with('_'))
}

/// What would be sealed: those called `names`, or everything past its retention.
pub async fn due(names: &[String], options: &Options, doors: &Doors, setting: &Setting) -> Result<Vec<Due>, Failure> {
    let maintenance = Maintenance::connect(&doors.connection).await?;
    let reader = Maintenance::connect(&doors.reader).await?;
    let now = setting.clock.now();
    let mut due = Vec::new();
    for rule in options.rules.iter().filter(|rule| rule.rule.seal) {
        let surveyed = survey(&maintenance, reader.session(), rule, now).await?;
        let Some((_, parent)) = &surveyed.found else { continue };
        let retired: Vec<&Partition> = surveyed.plan.retire.iter().map(|retire| &retire.partition).collect();
        let one = |partition: &Partition| Due {
            partition: partition.clone(),
            is_past_retention: retired.contains(&partition),
            rule: rule.clone(),
        };
        match names {
            [] => due.extend(retired.iter().copied().map(one)),
            names => due.extend(named(names, parent, now)?.into_iter().map(one)),
        }
    }
    if let Some(unknown) = names.iter().find(|name| !due.iter().any(|each| each.partition.table.name == **name)) {
        let message = format!("seal {unknown}: no table whose plan asks for seals has a partition of that name");
        return Err(Failure::new(FailureKind::NothingMatches, message).hint("`dbagent partition list` shows them."));
    }
    Ok(due)
}

fn named<'a>(names: &[String], parent: &'a Parent, now: DateTime<Utc>) -> Result<Vec<&'a Partition>, Failure> {
    let wanted: Vec<&Partition> =
        parent.partitions.iter().filter(|partition| names.contains(&partition.table.name)).collect();
    let open = |partition: &&&Partition| partition.bound.interval().is_none_or(|(_, to)| to + SETTLED > now);
    match wanted.iter().find(open) {
        None => Ok(wanted),
        Some(open) => {
            let message = format!("seal {}: rows may still come into it", open.table);
            Err(Failure::new(FailureKind::RefusedForSafety, message).hint("A month is sealed once it is over."))
        }
    }
}

/// Archives and seals each of `due`. Nothing is dropped.
pub async fn seal(due: &[Due], options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let maintenance = Maintenance::connect(&doors.connection).await?;
    let facts = ServerFacts::read(maintenance.session()).await?;
    maintenance.require_installed().await?;
    take_the_lock(&maintenance).await?;
    let reader = Maintenance::connect(&doors.reader).await?;
    let archives = Archives::new(&options.archive, doors, &facts, setting);
    let (mut done, mut sealed) = (super::Done::default(), Vec::new());
    for Due { partition, rule, .. } in due {
        setting.require_going_on("seal the next partition")?;
        let sealing = doors.sealing.as_ref();
        let (maintenance, archives) = (&maintenance, &archives);
        let work = Work { options, rule, maintenance, reader: reader.session(), archives, sealing, setting };
        let content = archives.content(&partition.table).await?;
        let ready = archives.ensure(&partition.table, partition.oid, content).await?;
        pass(FailPoint::PartitionArchived)?;
        if work.sealed(partition, ready, &mut done).await?.is_some() {
            sealed.push(partition.table.to_string());
        }
    }
    let verdict = if done.findings.is_empty() { Verdict::Ok } else { Verdict::Findings };
    let summary = match sealed.as_slice() {
        [] => "nothing was sealed".to_owned(),
        sealed => format!("{} partitions are sealed: {}", sealed.len(), sealed.join(", ")),
    };
    Ok(Outcome { verdict, findings: done.findings, ..Outcome::ok(summary) })
}
