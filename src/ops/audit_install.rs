//! Makes the chain of `public.audit_logs`: the side tables, the functions, the roles, and last the trigger.
//!
//! The trigger goes onto an empty log only. One that has rows is chained first (`dbagent audit backfill`), or its rows would
//! be rows without a place for ever. Everything may be run again; what is there is left as it is.

use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::{schema as chain, vectors};
use crate::postgres::{Connection, copy, schema};

/// What was found and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Files of `sql/schema/` that were applied, without their ending.
    pub migrations: Vec<&'static str>,
    /// Whether the trigger is on the log now.
    pub chained: bool,
    /// Whether it was put there by this run.
    pub enabled_now: bool,
}

/// What is not there yet: files of `sql/schema/`.
pub async fn plan(connection: &Connection) -> Result<Vec<&'static str>, Failure> {
    let session = connection.connect().await?;
    let mut pending = schema::pending(session.client(), &schema::AGENT).await?;
    pending.extend(schema::pending(session.client(), &schema::AUDIT).await?);
    Ok(pending.iter().map(|migration| migration.name).collect())
}

/// Installs what is missing. Needs a superuser, or the owner of database and log with CREATEROLE.
pub async fn run(connection: &Connection, setting: &Setting) -> Result<Installed, Failure> {
    let session = copy::connect(connection, "UTF8").await?;
    vectors::check_copy(&session).await?;
    if !chain::has_log(&session).await? {
        let message =
            format!("chain the audit log at {}: there is no partitioned table public.audit_logs", session.place());
        return Err(Failure::new(FailureKind::NothingMatches, message).hint(
            "sql/bc-003/006_create_audit_logs.sql makes it; a plain table is converted by `dbagent partition convert`.",
        ));
    }
    setting.require_going_on("install the audit chain")?;
    let mut migrations = schema::install(session.client(), &schema::AGENT).await?;
    migrations.extend(schema::install(session.client(), &schema::AUDIT).await?);
    vectors::check_functions(&session).await?;
    let (chained, enabled_now) = chain::chain_if_empty(&session).await?;
    Ok(Installed { migrations: migrations.iter().map(|migration| migration.name).collect(), chained, enabled_now })
}
