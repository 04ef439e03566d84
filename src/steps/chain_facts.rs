//! What the status says of the audit chain and of partitioned tables: asked of the database and the repositories, judged by
//! nobody here.

use chrono::{DateTime, Utc};

use crate::catalog::{Reading, Repository};
use crate::host::Spool;
use crate::model::audit::CHAIN;
use crate::model::chain_status::{CalendarStatus, ChainStatus};
use crate::model::failure::Failure;
use crate::postgres::audit::outbox::Outbox;
use crate::postgres::audit::snapshot;
use crate::postgres::partitions::Maintenance;
use crate::postgres::{Connection, copy};
use crate::steps::partitions::{TableRule, survey};

/// Where the chain is looked at.
#[derive(Debug)]
pub struct ChainDoor {
    /// The database, by the role that verifies.
    pub connection: Result<Connection, Failure>,
    /// Where alerts wait while it cannot be reached.
    pub spool: Spool,
    /// The longest the newest checkpoint may lie back, in seconds.
    pub longest_without_checkpoint: Option<i64>,
    /// The longest the last verification may lie back, in seconds.
    pub longest_unverified: Option<i64>,
}

/// What is known of the chain.
pub async fn chain(door: &ChainDoor, repositories: &[Repository], now: DateTime<Utc>) -> ChainStatus {
    let mut status = ChainStatus {
        longest_without_checkpoint: door.longest_without_checkpoint,
        longest_unverified: door.longest_unverified,
        ..ChainStatus::default()
    };
    if let Err(failure) = ask_database(door, &mut status).await {
        status.troubles.push(failure.full_message());
    }
    let mut newest = Vec::new();
    for repository in repositories {
        match repository.checkpoint_history(CHAIN, Reading::Recent, now).await {
            Ok(history) => {
                newest.push(history.marks.last().map(|mark| mark.taken));
                let verified = history.marks.iter().rev().find(|mark| mark.verified).map(|mark| mark.taken);
                status.last_verified = status.last_verified.max(verified);
                status.troubles.extend(history.faults.first().map(|fault| format!("believe the checkpoints: {fault}")));
            }
            Err(error) => status.troubles.push(Failure::from(error).full_message()),
        }
    }
    // One repository without any is as one where they stopped.
    status.last_checkpoint = newest.into_iter().min().flatten();
    status
}

async fn ask_database(door: &ChainDoor, status: &mut ChainStatus) -> Result<(), Failure> {
    let connection = door.connection.as_ref().map_err(|failure| Failure::new(failure.kind, failure.full_message()))?;
    let session = copy::connect(connection, "UTF8").await?;
    if let Some(head) = snapshot::head(&session).await? {
        (status.size, status.hash) = (Some(head.seq), head.hash.map(|hash| hash.to_string()));
    }
    let waiting = door.spool.names().map_err(|error| {
        Failure::new(crate::model::failure::FailureKind::Failed, "read the spool of alerts").because(error)
    })?;
    let open = Outbox::open(connection).await?.list(false).await?.len();
    status.open_alerts = Some((open + waiting.len()) as u64);
    Ok(())
}

/// The months of the tables that `rules` name.
pub async fn calendars(
    connection: &Result<Connection, Failure>,
    reader: &Result<Connection, Failure>,
    rules: &[TableRule],
    now: DateTime<Utc>,
) -> Vec<CalendarStatus> {
    let mut calendars = Vec::new();
    for rule in rules {
        let calendar = calendar(connection, reader, rule, now).await;
        calendars.push(calendar.unwrap_or_else(|failure| CalendarStatus {
            table: rule.name.to_string(),
            unknown: Some(failure.full_message()),
            ..CalendarStatus::default()
        }));
    }
    calendars
}

async fn calendar(
    connection: &Result<Connection, Failure>,
    reader: &Result<Connection, Failure>,
    rule: &TableRule,
    now: DateTime<Utc>,
) -> Result<CalendarStatus, Failure> {
    let again = |failure: &Failure| Failure::new(failure.kind, failure.full_message());
    let maintenance = Maintenance::connect(connection.as_ref().map_err(again)?).await?;
    let reader = Maintenance::connect(reader.as_ref().map_err(again)?).await?;
    let surveyed = survey(&maintenance, reader.session(), rule, now).await?;
    let Some((origin, parent)) = &surveyed.found else {
        let why = surveyed.findings.first().map_or("find it", |finding| &finding.message);
        return Err(Failure::new(crate::model::failure::FailureKind::Failed, format!("look at it: {why}")));
    };
    Ok(CalendarStatus {
        table: origin.table.to_string(),
        partitions: parent.partitions.len() as u64,
        ahead: parent.ahead(now) as u64,
        rows_in_default: parent.rows_in_default(),
        overdue: surveyed.plan.retire.len() as u64,
        unknown: None,
    })
}
