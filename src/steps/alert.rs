//! Alerts about the audit chain: from a finding to somebody who says that it was heard.
//!
//! In this order, so that a crash between any two loses nothing: a file in the spool; the outbox of the database, the
//! finding with it; the notice, by a transaction of its own; only then the file goes. Where the database cannot be reached the
//! file waits. Beside that an object in every repository, a line in the log and the run's outcome tell the same. Until
//! somebody acknowledges it, an alert is sent again every five minutes.

use std::time::Duration;

use crate::catalog::{CatalogError, Repository};
use crate::host::failpoint::{FailPoint, pass};
use crate::host::{FileError, Spool};
use crate::model::audit::alert::{Alert, Subject};
use crate::model::audit::finding::{ChainFinding, fold};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::id::AlertId;
use crate::model::outcome::{Finding, Severity};
use crate::postgres::Connection;
use crate::postgres::audit::outbox::Outbox;
use crate::steps::Setting;

/// How long an alert that nobody acknowledged rests, a little less than the five minutes between two looks at it.
const EVERY: Duration = Duration::from_secs(270);

/// Longest the database may take; the spool keeps what it has not taken.
const PATIENCE: Duration = Duration::from_secs(60);

/// From this usage on the queue of notices is close to refusing them.
const QUEUE_LIMIT: f64 = 0.5;

/// Where alerts go.
#[derive(Clone)]
pub struct AlertDoors {
    /// The database, by the role that verifies.
    pub connection: Connection,
    /// Where alerts wait for it.
    pub spool: Spool,
    /// The key that agent and listeners share.
    pub key: Vec<u8>,
    /// Where alerts are told besides.
    pub repositories: Vec<Repository>,
}

impl std::fmt::Debug for AlertDoors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AlertDoors")
            .field("connection", &self.connection)
            .field("spool", &self.spool)
            .finish_non_exhaustive()
    }
}

/// Raises one alert for each kind among `findings`. What kept one from being told in every way is given back; an error means
/// that one was not even written down.
pub async fn raise(
    findings: &[ChainFinding],
    subject: &Subject,
    doors: &AlertDoors,
    setting: &Setting,
) -> Result<Vec<Finding>, Failure> {
    let mut troubles = Vec::new();
    if findings.is_empty() {
        return Ok(deliver(doors).await);
    }
    let outbox = match tokio::time::timeout(PATIENCE, Outbox::open(&doors.connection)).await {
        Ok(Ok(outbox)) => Some(outbox),
        Ok(Err(_)) | Err(_) => None,
    };
    for finding in &fold(findings) {
        let now = setting.clock.now();
        let alert = Alert::new(AlertId::new(now), finding, subject, &doors.key, now);
        tracing::error!(alert = %alert.id, kind = %alert.kind, message = finding.message, "the audit chain raised an alert");
        let spooled = doors.spool.put(&spool_name(&alert), &written(&alert)?);
        pass(FailPoint::AlertSpooled)?;
        if let Some(id) = told_as(&alert, outbox.as_ref(), matches!(spooled, Ok(false))).await {
            let told = written(&Alert::new(id, finding, subject, &doors.key, now))?;
            for repository in &doors.repositories {
                if let Err(error) = repository.put_alert(id, told.clone(), now).await {
                    troubles.push(untold(&repository.name, &error));
                }
            }
        }
        if let Err(error) = spooled {
            // The outbox may still take it; without either it is told by this failure and by the repositories.
            let kept = keep_and_send(&alert, doors).await;
            troubles.push(Finding::new(
                Severity::Critical,
                "alert-not-spooled",
                format!("failed to keep an alert: {error}"),
            ));
            kept.map_err(|failure| failure.hint("The alert is in no outbox: act on this message."))?;
        }
    }
    troubles.extend(deliver(doors).await);
    Ok(troubles)
}

fn written(alert: &Alert) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec_pretty(alert).map_err(|error| Failure::new(FailureKind::Failed, "write an alert").because(error))
}

/// By which identity the repositories are told: that of the alert which is open about the same, so that what is found every
/// hour is one object, stored again only where it is not. Without the database, what `waits` in the spool is told already.
async fn told_as(alert: &Alert, outbox: Option<&Outbox>, waits: bool) -> Option<AlertId> {
    match outbox {
        Some(outbox) => match tokio::time::timeout(PATIENCE, outbox.keep(alert)).await {
            Ok(Ok(id)) => Some(id),
            Ok(Err(_)) | Err(_) => (!waits).then_some(alert.id),
        },
        None => (!waits).then_some(alert.id),
    }
}

/// What is found again and again while the database cannot be reached waits once.
fn spool_name(alert: &Alert) -> String {
    let what = format!("{:?}", alert.finding.first_bad);
    let digest = Digest::of(what.as_bytes()).to_string();
    format!("{}-{}.json", alert.kind, &digest[..16])
}

fn untold(repository: &str, error: &CatalogError) -> Finding {
    let message = format!("an alert is not in repository {repository}: {}", with_causes(error));
    Finding::new(Severity::Warning, "alert-not-stored", message)
}

async fn keep_and_send(alert: &Alert, doors: &AlertDoors) -> Result<(), Failure> {
    let outbox = Outbox::open(&doors.connection).await?;
    let id = outbox.keep(alert).await?;
    outbox.send(id).await?;
    Ok(())
}

/// Hands on what waits in the spool, and sends again what nobody has acknowledged. Gives what is in the way.
pub async fn deliver(doors: &AlertDoors) -> Vec<Finding> {
    let delivered = match tokio::time::timeout(PATIENCE, try_deliver(doors)).await {
        Ok(delivered) => delivered,
        Err(_) => Err(Failure::new(FailureKind::Failed, format!("hand alerts on within {PATIENCE:?}"))),
    };
    match delivered {
        Ok(troubles) => troubles,
        Err(failure) => {
            let waiting = doors.spool.names().map_or("unknown".to_owned(), |names| names.len().to_string());
            let message = format!(
                "alerts cannot be handed on ({waiting} wait in {}): failed to {}",
                doors.spool.folder().display(),
                failure.full_message()
            );
            let finding = Finding::new(Severity::Critical, "alerts-waiting", message);
            vec![finding.remedy("`dbagent alert list` shows them; they are sent as soon as the database answers")]
        }
    }
}

async fn try_deliver(doors: &AlertDoors) -> Result<Vec<Finding>, Failure> {
    let outbox = Outbox::open(&doors.connection).await?;
    let mut troubles = Vec::new();
    for name in doors.spool.names().map_err(unreadable)? {
        let bytes = doors.spool.read(&name).map_err(unreadable)?;
        let Ok(alert) = serde_json::from_slice::<Alert>(&bytes) else {
            let message = format!("{} holds no alert: {name}", doors.spool.folder().display());
            troubles.push(
                Finding::new(Severity::Warning, "alert-unreadable", message).remedy("look at the file and remove it"),
            );
            continue;
        };
        outbox.keep(&alert).await?;
        pass(FailPoint::AlertKept)?;
        doors.spool.remove(&name).map_err(unreadable)?;
    }
    for id in outbox.due(EVERY).await? {
        outbox.send(id).await?;
        pass(FailPoint::AlertSent)?;
    }
    troubles.extend(crowded(outbox.queue_usage().await?));
    Ok(troubles)
}

fn crowded(usage: f64) -> Option<Finding> {
    let message = format!("the queue of notices is {:.0} % full; at 100 % no NOTIFY commits", usage * 100.0);
    let finding = Finding::new(Severity::Warning, "notification-queue", message);
    let remedy = "end listeners that sit in a transaction: pg_stat_activity, state 'idle in transaction'";
    (usage >= QUEUE_LIMIT).then(|| finding.remedy(remedy))
}

fn unreadable(error: FileError) -> Failure {
    Failure::new(FailureKind::Failed, "go through the spool of alerts").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f110_a_queue_of_notices_that_is_half_full_is_told() {
        assert_eq!(crowded(0.49), None);
        let told = crowded(0.5).unwrap();
        assert_eq!((told.severity, told.code.as_str()), (Severity::Warning, "notification-queue"));
        assert!(told.message.contains("50 % full"), "{}", told.message);
    }
}
