//! What an agent looks at once whenever it begins to lead: whether rows are hashed here as the audit chain's profile says.
//!
//! Leading on the primary, that is: a standby takes no alert. What cannot be checked then is checked by the next
//! verification.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::agent::Current;
use crate::model::event::Events;
use crate::model::side::Side;
use crate::model::verb::Verb;
use crate::scheduler::Leadership;

/// Checks at each beginning, until nobody leads there any more.
pub(super) async fn check(current: Current, mut leadership: watch::Receiver<Leadership>) {
    let leads = |leadership: &Leadership| matches!(leadership, Leadership::Leader { side: Side::Primary, .. });
    while leadership.wait_for(leads).await.is_ok() {
        let app = current.read().unwrap_or_else(PoisonError::into_inner).clone();
        for database in databases(&app) {
            check_one(&app, database.as_deref()).await;
        }
        if leadership.wait_for(|leadership| !leads(leadership)).await.is_err() {
            return;
        }
    }
}

/// The databases whose chain the plan looks after.
fn databases(app: &App) -> BTreeSet<Option<String>> {
    let jobs = app.plan().into_iter().flat_map(|plan| plan.job.values());
    let chains = jobs.filter(|job| job.enabled && matches!(job.verb, Verb::AuditVerify | Verb::AuditCheckpoint));
    chains.map(|job| job.database.clone()).collect()
}

async fn check_one(app: &App, database: Option<&str>) {
    let setting = app.setting(Events::nowhere(), CancellationToken::new());
    match app.audit_check_golden_rows(database, &setting).await {
        Ok(outcome) if outcome.is_green() => tracing::info!("{}", outcome.summary),
        Ok(outcome) => outcome.findings.iter().for_each(|finding| tracing::error!("{}", finding.message)),
        Err(failure) => {
            tracing::warn!(error = failure.full_message(), "the golden rows of the audit chain were not checked")
        }
    }
}
