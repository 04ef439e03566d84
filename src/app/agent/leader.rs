//! Leadership: one agent per cluster runs jobs; it holds a session advisory lock on the primary and watches it.
//!
//! The catalog's own terms fence a leader that does not notice in time; this lock keeps two from working at once.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use crate::app::App;
use crate::model::verb::Verb;
use crate::postgres::leader::LeaderLock;
use crate::scheduler::Leadership;

/// How often the lock is tried for, and looked after.
const EVERY: Duration = Duration::from_secs(5);

/// How long the lock's session may take to answer before the lock counts as lost.
const ANSWER: Duration = Duration::from_secs(10);

/// Tries to lead for ever, and tells `leadership` how it stands.
pub(super) async fn lead(app: App, leadership: watch::Sender<Leadership>) {
    let mut complained = false;
    loop {
        match try_once(&app).await {
            Ok(Some(lock)) => {
                complained = false;
                let fencing_token = u64::try_from(app.clock.now().timestamp_micros()).unwrap_or_default();
                leadership.send_replace(Leadership::Leader { fencing_token, handled: BTreeMap::new() });
                hold(&app, &lock).await;
                leadership.send_replace(Leadership::Follower);
            }
            Ok(None) if !complained => {
                tracing::info!("another agent leads this cluster; waiting");
                complained = true;
            }
            Ok(None) => {}
            Err(error) if !complained => {
                tracing::warn!(error, "cannot reach PostgreSQL to lead; trying on");
                complained = true;
            }
            Err(_) => {}
        }
        app.clock.sleep(EVERY).await;
    }
}

async fn try_once(app: &App) -> Result<Option<LeaderLock>, String> {
    let connection = app.connection(Verb::Check, None).map_err(|failure| failure.full_message())?;
    LeaderLock::take(&connection, &app.loaded.config.cluster).await.map_err(|error| error.full_message())
}

/// Returns when the lock is lost.
async fn hold(app: &App, lock: &LeaderLock) {
    loop {
        app.clock.sleep(EVERY).await;
        let lost = match timeout(ANSWER, lock.require_held()).await {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error.full_message(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        tracing::warn!(error = lost, "lost the leader's lock");
        return;
    }
}
