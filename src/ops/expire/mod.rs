//! The verb `expire`: applies retention in every repository and clears away what dead runs left.
//!
//! What goes is decided by pure rules from what the repository itself says; nothing is ever deleted because something
//! else is absent. A repository whose log cannot be believed is left alone. Artifacts go first, then the WAL that no base
//! backup needs any more, so that what a crash leaves is too much, never too little.

mod leftovers;
mod plan;
mod wal;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::catalog::{CatalogErrorKind, Inventory, Repository, Unsigned};
use crate::model::audit::CHAIN;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::model::retention::Policy;
use crate::model::size::ByteSize;
use crate::ops::Setting;
use crate::steps::bury;
use crate::steps::wal::Archive;

pub use leftovers::Leftovers;
pub use plan::Fate;
pub use wal::{WalFate, WalFiles};

use plan::Contents;
use wal::{Holder, Other};

/// How long what is kept where.
#[derive(Clone, Debug)]
pub struct Options {
    /// By repository, then by job; a job without a policy is kept for ever.
    pub policies: BTreeMap<String, BTreeMap<String, Policy>>,
    /// How old something must be before it can be a dead run's.
    pub grace: Duration,
    /// By repository, the instant before which checkpoints of the audit chain may go; none where they are kept for ever.
    pub checkpoints: BTreeMap<String, DateTime<Utc>>,
}

/// What would happen in one repository.
#[derive(Debug)]
pub struct RepositoryPlan {
    /// The repository.
    pub repository: Repository,
    /// Every artifact with its fate.
    pub fates: Vec<Fate>,
    /// All archived WAL with its fate.
    pub wal: Vec<WalFate>,
    /// What dead runs left.
    pub leftovers: Leftovers,
    /// The instant before which checkpoints of the audit chain go, and how many those are.
    pub checkpoints: Option<(DateTime<Utc>, u64)>,
    /// What is wrong with the repository.
    pub findings: Vec<Finding>,
}

/// What expiry works with.
#[derive(Debug)]
pub struct Doors {
    /// The repositories.
    pub repositories: Vec<Repository>,
    /// Those that could not be opened: nothing goes there, and WAL that they may lack stays in the others.
    pub unopened: Vec<(String, Failure)>,
}

/// What would happen in each repository that can be read, or why that cannot be said. In the order of the doors.
pub async fn plan(doors: &Doors, options: &Options, setting: &Setting) -> Vec<Result<RepositoryPlan, Failure>> {
    let now = setting.clock.now();
    let mut contents = Vec::new();
    for repository in &doors.repositories {
        contents.push(read(repository, setting).await);
    }
    let archives: Vec<&Archive> = contents.iter().flatten().map(|contents| &contents.archive).collect();
    let nothing = BTreeMap::new();
    let decided = doors.repositories.iter().zip(&contents).map(|(repository, contents)| {
        let contents = contents.as_ref().ok()?;
        let policies = options.policies.get(&repository.name).unwrap_or(&nothing);
        let fates = plan::decide(contents, &archives, policies, options.grace, now);
        let rule = plan::wal_rule(contents, &fates, options.grace, now);
        Some((fates, Holder { repository, archive: &contents.archive, rule }))
    });
    let decided: Vec<Option<(Vec<Fate>, Holder<'_>)>> = decided.collect();
    let mut plans = Vec::new();
    for (at, repository) in doors.repositories.iter().enumerate() {
        let planned = match (&contents[at], &decided[at]) {
            (Ok(contents), Some((fates, holder))) => {
                let others = others(at, doors, &decided);
                finish(contents, fates, holder, &others, options, setting).await
            }
            (Err(failure), _) => Err(failure.again()),
            (Ok(_), None) => Err(Failure::new(FailureKind::Failed, format!("expire in {}", repository.name))),
        };
        plans.push(planned);
    }
    plans
}

/// The repositories besides number `at`: what each needs, or its name where that is not known.
fn others<'a>(at: usize, doors: &'a Doors, decided: &'a [Option<(Vec<Fate>, Holder<'a>)>]) -> Vec<Other<'a>> {
    let read = doors.repositories.iter().zip(decided).enumerate().filter(|(other, _)| *other != at);
    let read = read.map(|(_, (repository, decided))| match decided {
        Some((_, holder)) => Ok(holder),
        None => Err(repository.name.as_str()),
    });
    read.chain(doors.unopened.iter().map(|(name, _)| Err(name.as_str()))).collect()
}

async fn read(repository: &Repository, setting: &Setting) -> Result<Contents, Failure> {
    let now = setting.clock.now();
    let inventory = Inventory::read(repository, Unsigned::Refuse, now).await?;
    if let Some(reason) = &inventory.broken_log {
        let failure =
            Failure::new(FailureKind::Integrity, format!("expire in repository {}: {reason}", repository.name));
        return Err(failure.hint("Nothing is deleted from a repository whose log cannot be believed."));
    }
    let leased = repository.leased(now).await?;
    Ok(Contents { inventory, leased, archive: Archive::read(repository, now).await? })
}

async fn finish(
    contents: &Contents,
    fates: &[Fate],
    holder: &Holder<'_>,
    others: &[Other<'_>],
    options: &Options,
    setting: &Setting,
) -> Result<RepositoryPlan, Failure> {
    let repository = holder.repository;
    let leftovers = Leftovers::find(repository, &contents.inventory, options.grace, setting.clock.now()).await?;
    let wal = holder.plan(others, setting).await?;
    let mut findings = contents.inventory.findings.clone();
    findings.extend(wal::awaited(repository, &wal));
    let checkpoints = match options.checkpoints.get(&repository.name) {
        Some(before) => Some((*before, repository.checkpoints_before(CHAIN, *before).await?)),
        None => None,
    };
    let fates = fates.to_vec();
    Ok(RepositoryPlan { repository: repository.clone(), fates, wal, leftovers, checkpoints, findings })
}

/// Carries the plan out in every repository; one that fails does not hold up the others.
pub async fn run(doors: &Doors, options: &Options, setting: &Setting) -> Result<Outcome, Failure> {
    let mut outcomes = Vec::new();
    let mut findings = Vec::new();
    let mut totals = Totals::default();
    setting.events.step("deciding what retention no longer keeps");
    let mut errors = Vec::new();
    let mut plans = Vec::new();
    for plan in plan(doors, options, setting).await {
        let (plan, done) = match plan {
            Ok(plan) => {
                setting.events.step(format!("expiring in {}", plan.repository.storage.place()));
                let done = bury_artifacts(&plan, setting, &mut totals, &mut findings).await;
                (Some(plan), done)
            }
            Err(failure) => (None, Err(failure)),
        };
        errors.push(done.err());
        plans.push(plan);
    }
    // A base backup that is still there may need WAL of another repository: the next expiry decides anew.
    let all_gone = plans.iter().zip(&errors).all(|(plan, error)| plan.is_none() || error.is_none());
    for (error, plan) in errors.iter_mut().zip(plans) {
        if let Some(plan) = plan {
            let cleared = clear(plan, all_gone, setting, &mut totals, &mut findings).await;
            *error = error.take().or(cleared.err());
        }
    }
    for (repository, error) in doors.repositories.iter().zip(errors) {
        note(&repository.name, error.map(|failure| failure.full_message()), &mut outcomes, &mut findings);
    }
    for (repository, failure) in &doors.unopened {
        note(repository, Some(failure.full_message()), &mut outcomes, &mut findings);
    }
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    let verdict = match (failed, findings.is_empty()) {
        (true, _) => Verdict::Incomplete,
        (false, false) => Verdict::Findings,
        (false, true) => Verdict::Ok,
    };
    let Totals { artifacts, wal, leftovers, bytes, checkpoints } = totals;
    let bytes = ByteSize(bytes);
    let checkpoints = if checkpoints > 0 { format!(", {checkpoints} checkpoints expired") } else { String::new() };
    let summary =
        format!("{artifacts} backups, {wal} WAL files and {leftovers} leftovers deleted, {bytes} freed{checkpoints}");
    Ok(Outcome { verdict, repositories: outcomes, findings, ..Outcome::ok(summary) })
}

/// Notes what came of one repository; one in which retention was not applied is told.
fn note(repository: &str, error: Option<String>, outcomes: &mut Vec<RepositoryOutcome>, findings: &mut Vec<Finding>) {
    if let Some(error) = &error {
        let message = format!("retention was not applied in repository {repository}: {error}");
        findings.push(Finding::new(Severity::Critical, "expire-failed", message));
    }
    outcomes.push(RepositoryOutcome { repository: repository.to_owned(), error, stored_bytes: 0 });
}

#[derive(Default)]
struct Totals {
    artifacts: u64,
    wal: u64,
    leftovers: u64,
    bytes: u64,
    checkpoints: u64,
}

/// Buries every artifact that goes. One object that cannot be deleted does not hold up the rest; a catalog that takes no
/// entry does.
async fn bury_artifacts(
    plan: &RepositoryPlan,
    setting: &Setting,
    totals: &mut Totals,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let repository = &plan.repository;
    let mut failed = None;
    findings.extend(plan.findings.iter().cloned());
    for fate in plan.fates.iter().filter(|fate| !fate.keep) {
        setting.require_going_on("go on expiring")?;
        let reason = fate.reason.to_string();
        match bury::bury(repository, &fate.artifact, &reason, setting.clock.now()).await {
            Ok(bytes) => {
                totals.bytes += bytes;
                totals.artifacts += 1;
            }
            Err(error) if matches!(error.kind, CatalogErrorKind::Storage(_)) => {
                let error = Failure::from(error);
                let message =
                    format!("{} in repository {}: {}", fate.artifact.name, repository.name, error.full_message());
                findings.push(Finding::new(Severity::Critical, "not-deleted", format!("cannot delete {message}")));
                failed = failed.or(Some(error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Deletes the WAL that goes, where `with_wal`, and clears away what dead runs left.
async fn clear(
    plan: RepositoryPlan,
    with_wal: bool,
    setting: &Setting,
    totals: &mut Totals,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    setting.require_going_on("go on expiring")?;
    if with_wal {
        let (files, bytes) = wal::apply(&plan.repository, &plan.wal, setting, findings).await?;
        totals.wal += files;
        totals.bytes += bytes;
    }
    totals.leftovers += plan.leftovers.clear(&plan.repository, setting.clock.now()).await?;
    if let Some((before, 1..)) = plan.checkpoints {
        setting.require_going_on("expire checkpoints")?;
        totals.checkpoints += plan.repository.expire_checkpoints(CHAIN, before, setting.clock.now()).await?;
    }
    Ok(())
}
