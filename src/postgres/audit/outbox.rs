//! Alerts in the database: kept first, sent by a transaction of its own, repeated until somebody acknowledges them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::types::ToSql;

use crate::model::audit::CHAIN;
use crate::model::audit::alert::Alert;
use crate::model::id::AlertId;
use crate::postgres::connection::{Connection, Session};
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// An alert as it lies in the outbox.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct Kept {
    /// Its identity.
    pub id: String,
    /// What it is about.
    pub kind: String,
    /// How much it matters.
    pub severity: String,
    /// When it was raised.
    pub raised: DateTime<Utc>,
    /// How often it was sent.
    pub sends: i32,
    /// When it was sent last.
    pub last_sent: Option<DateTime<Utc>>,
    /// When somebody said that it was heard.
    pub acknowledged: Option<DateTime<Utc>>,
    /// Who.
    pub acknowledged_by: Option<String>,
    /// What they said.
    pub note: Option<String>,
    /// What is sent.
    pub payload: Value,
}

/// The outbox of one database.
#[derive(Debug)]
pub struct Outbox {
    session: Session,
}

impl Outbox {
    /// Opens it. The login may be one that reads only unless told otherwise.
    pub async fn open(connection: &Connection) -> Result<Self, PostgresError> {
        let session = connection.connect().await?;
        session
            .batch("SET default_transaction_read_only = off; SET lock_timeout = '5s'; SET statement_timeout = '30s'")
            .await?;
        Ok(Self { session })
    }

    /// Keeps `alert` and its finding, in one transaction. Gives the alert that tells of it: an earlier one about the
    /// same that is still open, or this one.
    pub async fn keep(&self, alert: &Alert) -> Result<AlertId, PostgresError> {
        let (id, run, kind) = (alert.id.to_string(), alert.run.to_string(), alert.kind.name());
        let rows = i64::try_from(alert.finding.bad_rows).unwrap_or(i64::MAX);
        let unwritable = |error| PostgresError::new(PostgresErrorKind::Other, "write a finding").because(error);
        let finding = serde_json::to_string(&alert.finding).map_err(unwritable)?;
        let payload = alert.payload.to_string();
        let parameters: [&(dyn ToSql + Sync); 7] = [&id, &run, &CHAIN, &kind, &rows, &finding, &payload];
        let query = include_str!("../../../sql/alert/raise.sql");
        let row = self.session.client().query_one(query, &parameters).await;
        let row = row.map_err(|error| self.session.failed("keep an alert", error))?;
        parse(row.get(0))
    }

    /// Sends it. Whether it was still open.
    pub async fn send(&self, id: AlertId) -> Result<bool, PostgresError> {
        let query = include_str!("../../../sql/alert/send.sql");
        let row = self.session.client().query_one(query, &[&id.to_string()]).await;
        Ok(row.map_err(|error| self.session.failed("send an alert", error))?.get(0))
    }

    /// Alerts that were not sent for as long as `every`, and are not acknowledged.
    pub async fn due(&self, every: Duration) -> Result<Vec<AlertId>, PostgresError> {
        let query = include_str!("../../../sql/alert/due.sql");
        let rows = self.session.client().query(query, &[&every.as_secs_f64()]).await;
        let rows = rows.map_err(|error| self.session.failed("look for alerts", error))?;
        rows.iter().map(|row| parse(row.get(0))).collect()
    }

    /// Alerts, the newest first; those acknowledged only where `all` are wanted.
    pub async fn list(&self, all: bool) -> Result<Vec<Kept>, PostgresError> {
        let rows = self.session.client().query(include_str!("../../../sql/alert/list.sql"), &[&all]).await;
        let rows = rows.map_err(|error| self.session.failed("list alerts", error))?;
        let kept = |row: &tokio_postgres::Row| Kept {
            id: row.get(0),
            kind: row.get(1),
            severity: row.get(2),
            raised: row.get(3),
            sends: row.get(4),
            last_sent: row.get(5),
            acknowledged: row.get(6),
            acknowledged_by: row.get(7),
            note: row.get(8),
            payload: serde_json::from_str(row.get(9)).unwrap_or(Value::Null),
        };
        Ok(rows.iter().map(kept).collect())
    }

    /// Acknowledges one alert, or all that are open. Gives which.
    pub async fn acknowledge(
        &self,
        id: Option<AlertId>,
        by: &str,
        note: Option<&str>,
    ) -> Result<Vec<String>, PostgresError> {
        let id = id.map(|id| id.to_string());
        let query = include_str!("../../../sql/alert/acknowledge.sql");
        let rows = self.session.client().query(query, &[&id, &by, &note]).await;
        let rows = rows.map_err(|error| self.session.failed("acknowledge alerts", error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// How full the queue of notices is, from 0 to 1.
    pub async fn queue_usage(&self) -> Result<f64, PostgresError> {
        let row = self.session.client().query_one(include_str!("../../../sql/alert/queue.sql"), &[]).await;
        Ok(row.map_err(|error| self.session.failed("look at the queue of notices", error))?.get(0))
    }
}

fn parse(id: &str) -> Result<AlertId, PostgresError> {
    id.parse().map_err(|error| PostgresError::new(PostgresErrorKind::Other, "read an alert's id").because(error))
}
