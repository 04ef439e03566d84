//! The verb `expire`: applies retention in every repository and clears away what dead runs left.
//!
//! What goes is decided by pure rules from what the repository itself says; nothing is ever deleted because something
//! else is absent. A repository whose log cannot be believed is left alone.

mod leftovers;
mod plan;

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

pub use leftovers::Leftovers;
pub use plan::Fate;

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
    /// What dead runs left.
    pub leftovers: Leftovers,
    /// The instant before which checkpoints of the audit chain go, and how many those are.
    pub checkpoints: Option<(DateTime<Utc>, u64)>,
    /// What is wrong with the repository.
    pub findings: Vec<Finding>,
}

/// What would happen in one repository, or why that cannot be said.
pub async fn plan(repository: &Repository, options: &Options, setting: &Setting) -> Result<RepositoryPlan, Failure> {
    let now = setting.clock.now();
    let inventory = Inventory::read(repository, Unsigned::Refuse, now).await?;
    if let Some(reason) = &inventory.broken_log {
        let failure =
            Failure::new(FailureKind::Integrity, format!("expire in repository {}: {reason}", repository.name));
        return Err(failure.hint("Nothing is deleted from a repository whose log cannot be believed."));
    }
    let leased = repository.leased(now).await?;
    let nothing = BTreeMap::new();
    let policies = options.policies.get(&repository.name).unwrap_or(&nothing);
    let fates = plan::decide(&inventory, &leased, policies, options.grace, now);
    let leftovers = Leftovers::find(repository, &inventory, options.grace, now).await?;
    let checkpoints = match options.checkpoints.get(&repository.name) {
        Some(before) => Some((*before, repository.checkpoints_before(CHAIN, *before).await?)),
        None => None,
    };
    Ok(RepositoryPlan { repository: repository.clone(), fates, leftovers, checkpoints, findings: inventory.findings })
}

/// Carries the plan out in every repository; one that fails does not hold up the others.
pub async fn run(repositories: &[Repository], options: &Options, setting: &Setting) -> Result<Outcome, Failure> {
    let mut outcomes = Vec::new();
    let mut findings = Vec::new();
    let mut totals = Totals::default();
    for repository in repositories {
        setting.events.step(format!("expiring in {}", repository.storage.place()));
        let done = match plan(repository, options, setting).await {
            Ok(plan) => apply(plan, setting, &mut totals, &mut findings).await,
            Err(failure) => Err(failure),
        };
        let error = done.err().map(|failure| failure.full_message());
        if let Some(error) = &error {
            let message = format!("retention was not applied in repository {}: {error}", repository.name);
            findings.push(Finding::new(Severity::Critical, "expire-failed", message));
        }
        outcomes.push(RepositoryOutcome { repository: repository.name.clone(), error, stored_bytes: 0 });
    }
    let failed = outcomes.iter().any(|outcome| outcome.error.is_some());
    let verdict = match (failed, findings.is_empty()) {
        (true, _) => Verdict::Incomplete,
        (false, false) => Verdict::Findings,
        (false, true) => Verdict::Ok,
    };
    let Totals { artifacts, leftovers, bytes, checkpoints } = totals;
    let checkpoints = if checkpoints > 0 { format!(", {checkpoints} checkpoints expired") } else { String::new() };
    let summary =
        format!("{artifacts} backups and {leftovers} leftovers deleted, {} freed{checkpoints}", ByteSize(bytes));
    Ok(Outcome { verdict, repositories: outcomes, findings, ..Outcome::ok(summary) })
}

#[derive(Default)]
struct Totals {
    artifacts: u64,
    leftovers: u64,
    bytes: u64,
    checkpoints: u64,
}

async fn apply(
    plan: RepositoryPlan,
    setting: &Setting,
    totals: &mut Totals,
    findings: &mut Vec<Finding>,
) -> Result<(), Failure> {
    let RepositoryPlan { repository, fates, leftovers, checkpoints, findings: found } = plan;
    let mut failed = None;
    findings.extend(found);
    for fate in fates.iter().filter(|fate| !fate.keep) {
        setting.require_going_on("go on expiring")?;
        let reason = fate.reason.to_string();
        match bury::bury(&repository, &fate.artifact, &reason, setting.clock.now()).await {
            Ok(bytes) => {
                totals.bytes += bytes;
                totals.artifacts += 1;
            }
            // One object that cannot be deleted does not hold up the rest; a catalog that takes no entry does.
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
    totals.leftovers += leftovers.clear(&repository, setting.clock.now()).await?;
    if let Some((before, 1..)) = checkpoints {
        setting.require_going_on("expire checkpoints")?;
        totals.checkpoints += repository.expire_checkpoints(CHAIN, before, setting.clock.now()).await?;
    }
    failed.map_or(Ok(()), Err)
}

/// Adds to `outcome` the repositories that could not be opened: retention was not applied there.
pub fn note_unopened(outcome: &mut Outcome, unopened: Vec<(String, Failure)>) {
    for (repository, failure) in unopened {
        let error = failure.full_message();
        let message = format!("retention was not applied in repository {repository}: {error}");
        outcome.findings.push(Finding::new(Severity::Critical, "expire-failed", message));
        outcome.repositories.push(RepositoryOutcome { repository, error: Some(error), stored_bytes: 0 });
        outcome.verdict = Verdict::Incomplete;
    }
}
