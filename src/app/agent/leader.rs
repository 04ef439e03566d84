//! Leadership: one agent on each side of a replication runs the jobs of its side; it holds a session advisory lock on the
//! server that it is told, the primary or a standby, and watches it.
//!
//! The catalog's own terms fence a leader that does not notice in time; this lock keeps two from working at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::App;
use crate::app::agent::Current;
use crate::catalog::history::{self, Filter, Remembered};
use crate::catalog::{Inventory, Unsigned};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::model::side::Side;
use crate::model::verb::Verb;
use crate::postgres::leader::LeaderLock;
use crate::scheduler::Leadership;

/// How often the lock is tried for.
const EVERY: Duration = Duration::from_secs(5);

/// What helps against what passes.
const AGAIN: &str = "The agent tries again every few seconds; run the job again then.";

/// How long the repositories may take to say what earlier leaders did.
const LOOK: Duration = Duration::from_secs(60);

/// Tries to lead for ever, and tells `leadership` how it stands. `refused` tells which leadership a repository refused.
pub(super) async fn lead(current: Current, leadership: watch::Sender<Leadership>, mut refused: watch::Receiver<u64>) {
    let app = current.read().unwrap_or_else(PoisonError::into_inner).clone();
    loop {
        match try_once(&app).await {
            Ok(mut lock) => {
                let side = lock.side();
                let lost = tokio::select! {
                    lost = lock.lost(app.clock.as_ref()) => lost,
                    refused = take_over(&current, side, &leadership, &mut refused) => refused,
                };
                let why = Failure::new(FailureKind::Failed, format!("this agent has just lost the leadership: {lost}"));
                leadership.send_replace(apart(&why.hint(AGAIN)));
                tracing::warn!(error = lost, "leads no longer");
            }
            Err(standing) => wait(&leadership, standing),
        }
        app.clock.sleep(EVERY).await;
    }
}

/// How an agent stands that has not tried yet.
pub(super) fn beginning() -> Leadership {
    apart(&Failure::new(FailureKind::Failed, "this agent has just begun and does not lead yet").hint(AGAIN))
}

fn apart(why: &Failure) -> Leadership {
    Leadership::Apart(why.into())
}

/// Does not lead; what is so for the second time is not told again.
fn wait(leadership: &watch::Sender<Leadership>, standing: Leadership) {
    if *leadership.borrow() == standing {
        return;
    }
    match &standing {
        Leadership::Apart(why) => tracing::warn!(error = why.message, "does not lead; trying on"),
        _ => tracing::info!("another agent leads this cluster; waiting"),
    }
    leadership.send_replace(standing);
}

/// The lock, or how it stands without.
async fn try_once(app: &App) -> Result<LeaderLock, Leadership> {
    let unreached = |failure: Failure| {
        let message = format!("PostgreSQL cannot be reached to take the leadership: {}", failure.full_message());
        apart(&Failure::new(failure.kind, message).hint(failure.hint.unwrap_or_else(|| AGAIN.to_owned())))
    };
    let connection = app.connection(Verb::Check, None).map_err(unreached)?;
    // An agent of a standby has something to do only where the plan says so.
    let on_standby =
        app.plan().is_ok_and(|plan| plan.job.values().any(|job| job.enabled && job.side() == Side::Standby));
    let attempt = LeaderLock::take(&connection, &app.loaded.config.cluster, on_standby).await;
    let attempt = attempt.map_err(|error| unreached(error.into()))?;
    attempt.lock.ok_or_else(|| match attempt.side {
        Side::Standby if !on_standby => apart(
            &Failure::new(
                FailureKind::LockHeld,
                "this agent's server is a standby, and no job of the plan is done on one",
            )
            .hint("Run it on the primary's host, or change `source` of the job in the plan."),
        ),
        _ => Leadership::Follower,
    })
}

/// Leads from now on, knowing what earlier leaders did. Ends only when a repository has seen a later leadership: whoever
/// still holds the lock gives it up then, and leads under new terms only if it gets it again.
async fn take_over(
    current: &Current,
    side: Side,
    leadership: &watch::Sender<Leadership>,
    refused: &mut watch::Receiver<u64>,
) -> String {
    let app = current.read().unwrap_or_else(PoisonError::into_inner).clone();
    let handled = timeout(LOOK, settled(&app)).await.unwrap_or_else(|_| {
        tracing::warn!("the repositories do not say what earlier leaders did; jobs may run once more than needed");
        BTreeMap::new()
    });
    let fencing_token = u64::try_from(app.clock.now().timestamp_micros()).unwrap_or_default();
    leadership.send_replace(Leadership::Leader { fencing_token, side, handled });
    if refused.wait_for(|token| *token == fencing_token).await.is_err() {
        std::future::pending::<()>().await;
    }
    "a repository has seen a later leadership".to_owned()
}

/// Up to when other agents have settled each job that makes artifacts: the beginning of the newest run that is not in
/// our own history and reached all of the job's repositories. A repository that cannot be read settles nothing: better
/// a dump too many than one too few.
async fn settled(app: &App) -> BTreeMap<String, DateTime<Utc>> {
    let (Ok(plan), Ok((repositories, unopened))) = (app.plan(), app.try_repositories(None).await) else {
        return BTreeMap::new();
    };
    let remembered = history::read(&app.history_folder(), &Filter::default()).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot read the run history; its runs count as another agent's");
        Vec::new()
    });
    let ours: BTreeSet<RunId> = remembered.iter().filter_map(own_run).collect();
    let mut newest: BTreeMap<(String, String), DateTime<Utc>> = BTreeMap::new();
    for repository in &repositories {
        match Inventory::read(repository, Unsigned::Refuse, app.clock.now()).await {
            Ok(inventory) => {
                // Oldest first, so that the newest of a job stays.
                let theirs = inventory.artifacts.into_iter().filter(|artifact| !ours.contains(&artifact.manifest.run));
                newest.extend(theirs.map(|each| ((each.repository, each.manifest.job), each.manifest.started)));
            }
            Err(error) => tracing::warn!(repository = repository.name, %error, "cannot say what earlier leaders did"),
        }
    }
    let names = || repositories.iter().map(|each| &each.name).chain(unopened.iter().map(|(name, _)| name));
    let settled = plan.job.iter().filter_map(|(name, job)| {
        let written = names().filter(|repository| job.writes_to(repository));
        let all: Option<Vec<_>> = written.map(|each| newest.get(&(each.clone(), name.clone())).copied()).collect();
        Some((name.clone(), all?.into_iter().min()?))
    });
    settled.collect()
}

fn own_run(remembered: &Remembered) -> Option<RunId> {
    match remembered {
        Remembered::Run(run) => Some(run.run),
        Remembered::Skipped(_) => None,
    }
}
