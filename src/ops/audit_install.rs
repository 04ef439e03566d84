//! Makes the chain of `public.audit_logs`: the side tables, the functions, the roles, and last the trigger.
//!
//! The trigger goes onto an empty log only. One that has rows is chained first (`dbagent audit backfill`), or its rows would
//! be rows without a place for ever. Everything may be run again; what is there is left as it is.

use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::{schema as chain, vectors};
use crate::postgres::{Connection, copy, schema};

pub use crate::postgres::audit::schema::Drift;

/// What was found and done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installed {
    /// Files of `sql/schema/` that were applied, without their ending.
    pub migrations: Vec<&'static str>,
    /// Whether the trigger is on the log now.
    pub chained: bool,
    /// Whether it was put there by this run.
    pub enabled_now: bool,
    /// What of the protection is there and not as it is installed.
    pub drift: Vec<Drift>,
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
    // A log that was never chained lacks the trigger, and that is said already.
    let was_chained = chained || !chain::side_tables_are_empty(&session).await?;
    let drift = if was_chained { chain::drift(&session).await? } else { Vec::new() };
    let migrations = migrations.iter().map(|migration| migration.name).collect();
    Ok(Installed { migrations, chained, enabled_now, drift })
}

/// Puts trigger and functions of a chain back as they are installed. Gives what was not so before, and what is not so still:
/// other triggers and privileges are left to whoever knows why they are there.
pub async fn repair(connection: &Connection, setting: &Setting) -> Result<(Vec<Drift>, Vec<Drift>), Failure> {
    let session = copy::connect(connection, "UTF8").await?;
    let installed = chain::is_installed(&session).await?;
    // Without places, a trigger would begin a second chain in a log that has one.
    if !installed || chain::side_tables_are_empty(&session).await? && !chain::has_trigger(session.client()).await? {
        let message = format!("repair the audit chain at {}: the log is not chained", session.place());
        return Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
            "`dbagent audit install` chains an empty log, `dbagent audit backfill` one with rows, `dbagent audit rebuild` one \
             that was restored.",
        ));
    }
    let before = chain::drift(&session).await?;
    setting.require_going_on("repair the audit chain")?;
    chain::repair(&session).await?;
    vectors::check_functions(&session).await?;
    Ok((before, chain::drift(&session).await?))
}
