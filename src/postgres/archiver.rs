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
        })
    }
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
