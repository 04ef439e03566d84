//! Alerts as people handle them: list them, acknowledge them, try them out.

use crate::model::audit::alert::Subject;
use crate::model::audit::finding::ChainFinding;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::AlertId;
use crate::model::outcome::{Outcome, Verdict};
use crate::ops::Setting;
use crate::postgres::audit::outbox::{Kept, Outbox};
use crate::steps::alert::{self, AlertDoors};

/// Alerts of the outbox, the newest first, those acknowledged only where `all` are wanted; and what waits in the spool.
/// Errors only when the database cannot be asked and nothing waits.
pub async fn list(doors: &AlertDoors, all: bool) -> Result<(Vec<Kept>, Vec<String>), Failure> {
    let waiting = doors
        .spool
        .names()
        .map_err(|error| Failure::new(FailureKind::Failed, "list the alerts that wait").because(error))?;
    let kept = match Outbox::open(&doors.connection).await {
        Ok(outbox) => outbox.list(all).await,
        Err(error) => Err(error),
    };
    match kept {
        Ok(kept) => Ok((kept, waiting)),
        Err(error) if waiting.is_empty() => Err(error.into()),
        Err(error) => {
            tracing::warn!(error = error.full_message(), "the outbox cannot be read; only what waits is listed");
            Ok((Vec::new(), waiting))
        }
    }
}

/// Acknowledges one alert, or all that are open, as `by`. What waits is kept first. `NothingMatches` when there is no such
/// open alert.
pub async fn acknowledge(
    doors: &AlertDoors,
    id: Option<AlertId>,
    by: &str,
    note: Option<&str>,
) -> Result<Vec<String>, Failure> {
    let outbox = Outbox::open(&doors.connection).await?;
    let acknowledged = outbox.acknowledge(id, by, note).await?;
    match (acknowledged.is_empty(), id) {
        (true, Some(id)) => {
            let message = format!("acknowledge the alert {id}: none of that id is open");
            Err(Failure::new(FailureKind::NothingMatches, message).hint("`dbagent alert list` shows those that are."))
        }
        _ => Ok(acknowledged),
    }
}

/// Raises the alert of `finding` by every way there is.
pub async fn test(doors: &AlertDoors, finding: &ChainFinding, setting: &Setting) -> Result<Outcome, Failure> {
    let subject = Subject::of(setting.run, doors.connection.database());
    let troubles = alert::raise(std::slice::from_ref(finding), &subject, doors, setting).await?;
    let verdict = if troubles.is_empty() { Verdict::Ok } else { Verdict::Findings };
    let summary = "a test alert was raised: it should be on channel audit_tampering_detected now";
    Ok(Outcome { verdict, findings: troubles, ..Outcome::ok(summary) })
}
