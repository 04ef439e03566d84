//! The audit chain: is its protection as installed, does anybody have to be told something, can notices still be sent.
//!
//! Reads catalogs and the outbox; rows are the verification's concern.

use chrono::{DateTime, Utc};

use crate::host::Spool;
use crate::model::chain_status::ChainStatus;
use crate::model::failure::Failure;
use crate::model::status::StatusModel;
use crate::ops::check::{CheckLine, again};
use crate::postgres::audit::outbox::Outbox;
use crate::postgres::audit::schema;
use crate::postgres::{Connection, copy};

const PROTECTION: &str = "audit-chain";
const ALERTS: &str = "audit-alerts";
const EVIDENCE: &str = "audit-signed";

/// The chain that the plan verifies.
#[derive(Debug)]
pub struct AuditChain {
    /// Its database, by the role that verifies.
    pub connection: Result<Connection, Failure>,
    /// Where alerts wait while that cannot be reached.
    pub spool: Spool,
}

pub(super) async fn check(
    chain: Option<&AuditChain>,
    status: &Result<StatusModel, Failure>,
    now: DateTime<Utc>,
) -> Vec<CheckLine> {
    let Some(chain) = chain else { return Vec::new() };
    let protection = match protection(chain).await {
        Ok(line) => line,
        Err(failure) => CheckLine::failed(PROTECTION, "the audit chain", &failure),
    };
    let alerts = match alerts(chain).await {
        Ok(line) => line,
        Err(failure) => CheckLine::failed(ALERTS, "the alerts", &failure),
    };
    vec![protection, alerts].into_iter().chain(evidence(status, now)).collect()
}

/// Whether what is signed of the chain is as new as the plan wants it.
fn evidence(status: &Result<StatusModel, Failure>, now: DateTime<Utc>) -> Option<CheckLine> {
    let chain = match status {
        Ok(status) => status.chain.as_ref()?,
        Err(failure) => return Some(CheckLine::failed(EVIDENCE, "the signed state of the audit chain", failure)),
    };
    // Open alerts have a line of their own.
    let complaints = ChainStatus { open_alerts: Some(0), ..chain.clone() }.complaints(now);
    Some(match complaints.as_slice() {
        [] => CheckLine::ok(EVIDENCE, format!("the audit chain: {}", chain.line(now))),
        complaints => {
            let message = format!("{} ({})", complaints.join("; "), chain.line(now));
            CheckLine::fail(
                EVIDENCE,
                message,
                "`dbagent job history` says why; `dbagent audit verify`, `dbagent audit checkpoint`",
            )
        }
    })
}

async fn protection(chain: &AuditChain) -> Result<CheckLine, Failure> {
    let connection = chain.connection.as_ref().map_err(again)?;
    let session = copy::connect(connection, "UTF8").await?;
    if !schema::is_installed(&session).await? {
        let message = "the plan verifies the audit chain, and the database has none";
        return Ok(CheckLine::fail(PROTECTION, message, "dbagent audit install"));
    }
    let drift = schema::drift(&session).await?;
    Ok(match drift.first() {
        None => {
            CheckLine::ok(PROTECTION, "trigger, functions, owners and privileges of the audit chain are as installed")
        }
        Some(first) => {
            let message = format!("{} things are not as installed; {}: {}", drift.len(), first.object, first.what);
            CheckLine::fail(PROTECTION, message, "follow deploy/runbooks/tampering-detected.md")
        }
    })
}

async fn alerts(chain: &AuditChain) -> Result<CheckLine, Failure> {
    let waiting = chain.spool.names().map_err(unreadable)?.len();
    let outbox = Outbox::open(chain.connection.as_ref().map_err(again)?).await?;
    let (open, usage) = (outbox.list(false).await?.len(), outbox.queue_usage().await?);
    if open + waiting > 0 {
        let message = format!("{open} alerts are not acknowledged, {waiting} wait for the database");
        return Ok(CheckLine::fail(ALERTS, message, "dbagent alert list"));
    }
    if usage >= 0.5 {
        let message = format!("the queue of notices is {:.0} % full", usage * 100.0);
        return Ok(CheckLine::warn(ALERTS, message, "end listeners that sit in a transaction"));
    }
    Ok(CheckLine::ok(ALERTS, "no alert is open"))
}

fn unreadable(error: crate::host::FileError) -> Failure {
    Failure::new(crate::model::failure::FailureKind::Failed, "read the spool of alerts").because(error)
}
