//! How the server's archiving is set up and how its archiver is doing.

use chrono::{DateTime, Utc};

use super::connection::Session;
use super::error::{PostgresError, PostgresErrorKind};

/// What the server says of its archiving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiverFacts {
    /// `archive_mode`: `off`, `on`, `always`.
    pub mode: String,
    /// `archive_command`.
    pub command: String,
    /// `archive_library`; empty before PostgreSQL 15.
    pub library: String,
    /// `wal_level`.
    pub wal_level: String,
    /// `archive_timeout` in seconds; 0 for none.
    pub timeout: i32,
    /// Bytes of a segment.
    pub segment_size: u64,
    /// The last file that was archived, and when.
    pub archived: Option<(String, DateTime<Utc>)>,
    /// The last file that could not be archived, and when.
    pub failed: Option<(String, DateTime<Utc>)>,
    /// How often archiving has failed.
    pub failed_count: i64,
    /// The server's time.
    pub now: DateTime<Utc>,
    /// Whether it is a standby.
    pub in_recovery: bool,
    /// Files that wait to be archived, where the role may know.
    pub waiting: Option<u64>,
    /// Replication slots that outlive their session.
    pub slots: Vec<Slot>,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Whether somebody reads from it now.
    pub active: bool,
    /// `reserved`, `extended`, `unreserved` or `lost`; absent for one never used.
    pub wal_status: Option<String>,
    /// Bytes of WAL since the position it holds.
    pub held: u64,
    /// Whether `max_slot_wal_keep_size` bounds what slots may hold.
    pub bounded: bool,
}

impl ArchiverFacts {
    /// Asks `session`, which must not be in a transaction.
    pub async fn read(session: &Session) -> Result<Self, PostgresError> {
        let failed = |error| session.failed("ask how archiving is doing", error);
        let row = session.client().query_one(include_str!("../../sql/wal/archiver.sql"), &[]).await.map_err(failed)?;
        let pair =
            |name: &str, at: &str| row.get::<_, Option<String>>(name).zip(row.get::<_, Option<DateTime<Utc>>>(at));
        Ok(Self {
            mode: row.get("archive_mode"),
            command: row.get("archive_command"),
            library: row.get("archive_library"),
            wal_level: row.get("wal_level"),
            timeout: row.get("archive_timeout"),
            segment_size: u64::try_from(row.get::<_, i64>("segment_size")).unwrap_or_default(),
            archived: pair("last_archived_wal", "last_archived"),
            failed: pair("last_failed_wal", "last_failed"),
            failed_count: row.get("failed_count"),
            now: row.get("now"),
            in_recovery: row.get("in_recovery"),
            waiting: waiting(session).await?,
            slots: slots(session).await?,
        })
    }
}

async fn slots(session: &Session) -> Result<Vec<Slot>, PostgresError> {
    let rows = session.client().query(include_str!("../../sql/wal/slots.sql"), &[]).await;
    let rows = rows.map_err(|error| session.failed("look at the replication slots", error))?;
    let slot = |row: &tokio_postgres::Row| Slot {
        name: row.get("slot_name"),
        active: row.get("active"),
        wal_status: row.get("wal_status"),
        held: u64::try_from(row.get::<_, i64>("held_bytes")).unwrap_or_default(),
        bounded: row.get::<_, i64>("limit_megabytes") >= 0,
    };
    Ok(rows.iter().map(slot).collect())
}

async fn waiting(session: &Session) -> Result<Option<u64>, PostgresError> {
    match session.client().query_one(include_str!("../../sql/wal/backlog.sql"), &[]).await {
        Ok(row) => Ok(u64::try_from(row.get::<_, i64>(0)).ok()),
        Err(error) => match session.failed("count what waits to be archived", error) {
            refused if refused.kind == PostgresErrorKind::Permission => Ok(None),
            failed => Err(failed),
        },
    }
}
