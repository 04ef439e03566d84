//! The server's side of a base backup: what must be known before, the session that holds it open, its end.
//!
//! The non-exclusive form only: the session that begins a backup ends it, and a session that is lost ends it without a
//! label, so that nothing half-made can be taken for a backup (PostgreSQL manual, "Making a Base Backup Using the
//! Low-Level API"). PostgreSQL 14 calls the functions `pg_start_backup` and `pg_stop_backup`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use super::connection::{Connection, Session};
use super::error::{PostgresError, PostgresErrorKind};
use super::facts::ServerFacts;
use crate::host::durable;
use crate::model::base::Tablespace;
use crate::model::lsn::Lsn;

/// Settings that a standby, or a copy in recovery, must not have lower than the server whose log it replays (manual,
/// "Administrator's Overview" of hot standby).
pub const MUST_MATCH: [&str; 5] = [
    "max_connections",
    "max_worker_processes",
    "max_wal_senders",
    "max_prepared_transactions",
    "max_locks_per_transaction",
];

/// What is known of a server before its base backup.
#[derive(Clone, Debug)]
pub struct BaseFacts {
    /// The server.
    pub server: ServerFacts,
    /// Its settings, by name, those that a base backup looks at.
    pub settings: BTreeMap<String, String>,
    /// Its tablespaces besides the two that every cluster has.
    pub tablespaces: Vec<Tablespace>,
}

impl BaseFacts {
    /// A setting's number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.settings.get(name)?.parse().ok()
    }

    /// A setting's text; empty where it is not known.
    pub fn text(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Its data directory, where the role may know it.
    pub fn data_directory(&self) -> Option<PathBuf> {
        self.settings.get("data_directory").map(PathBuf::from)
    }
}

/// Largest file of an exported snapshot that is read, in bytes.
const SNAPSHOT_LIMIT: u64 = 1 << 20;

/// The session of a base backup. Dropping it before [`BackupSession::stop`] gives the backup up.
#[derive(Debug)]
pub struct BackupSession {
    session: Session,
    major: u32,
}

/// How a base backup ended on the server.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Where a copy is consistent.
    pub lsn: Lsn,
    /// `backup_label`, byte for byte.
    pub label: String,
    /// `tablespace_map`, byte for byte.
    pub map: String,
    /// The server's clock, after it.
    pub at: DateTime<Utc>,
}

/// The tablespaces that have a place of their own.
pub async fn tablespaces(session: &Session) -> Result<Vec<Tablespace>, PostgresError> {
    let rows = session.client().query(include_str!("../../sql/base/tablespaces.sql"), &[]).await;
    let rows = rows.map_err(|error| session.failed("list the tablespaces", error))?;
    Ok(rows.iter().map(|row| Tablespace { oid: row.get("oid"), path: row.get("location") }).collect())
}

impl BackupSession {
    /// Connects and asks what has to be known.
    pub async fn connect(connection: &Connection) -> Result<(Self, BaseFacts), PostgresError> {
        let session = connection.connect().await?;
        // It has nothing to do while the cluster is copied, and is asked again at the end.
        session.batch("SET statement_timeout = 0; SET idle_session_timeout = 0").await?;
        let server = ServerFacts::read(&session).await?;
        let failed = |error| session.failed("ask the server what a base backup needs", error);
        let rows = session.client().query(include_str!("../../sql/base/settings.sql"), &[]).await.map_err(failed)?;
        let settings = rows.iter().map(|row| (row.get("name"), row.get("setting"))).collect();
        let tablespaces = tablespaces(&session).await?;
        let major = server.major();
        Ok((Self { session, major }, BaseFacts { server, settings, tablespaces }))
    }

    /// Whether the server writes into the directory `root`: it is asked to export a snapshot, and the file that it makes
    /// of it is looked for there, while the transaction lasts and after (PostgreSQL, `utils/time/snapmgr.c`,
    /// `ExportSnapshot`). Any role may, and a standby does it too.
    pub async fn writes_into(&self, root: &Path) -> Result<bool, PostgresError> {
        let failed = |error| self.session.failed("ask the server for a mark in its data directory", error);
        self.session.batch("BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY").await?;
        let row =
            self.session.client().query_one(include_str!("../../sql/base/mark.sql"), &[]).await.map_err(failed)?;
        let (name, process): (String, i32) = (row.get("name"), row.get("process"));
        let path = root.join("pg_snapshots").join(name);
        let found = durable::read_bounded(&path, SNAPSHOT_LIMIT);
        self.session.batch("ROLLBACK").await?;
        let own = format!("pid:{process}");
        let is_own = |text: &[u8]| String::from_utf8_lossy(text).lines().any(|line| line == own);
        match found {
            Ok(text) => Ok(is_own(&text) && !path.exists()),
            Err(error) if error.kind == durable::FileErrorKind::Missing => Ok(false),
            Err(error) => {
                let message = format!("read the data directory {}", root.display());
                Err(PostgresError::new(PostgresErrorKind::Other, message).because(error))
            }
        }
    }

    /// Begins the backup: waits for a checkpoint, which is made at once where `fast` says so. Gives where it begins.
    pub async fn start(&self, label: &str, fast: bool) -> Result<Lsn, PostgresError> {
        let statement = match self.major {
            ..15 => include_str!("../../sql/base-14/start.sql"),
            _ => include_str!("../../sql/base/start.sql"),
        };
        let started = self.session.client().query_one(statement, &[&label, &fast]).await;
        let row = started.map_err(|error| self.refused("begin a base backup", error))?;
        position(row.get("start"))
    }

    /// Ends the backup. Errors when the session was lost, or the server's role changed meanwhile.
    pub async fn stop(&self) -> Result<Stopped, PostgresError> {
        let statement = match self.major {
            ..15 => include_str!("../../sql/base-14/stop.sql"),
            _ => include_str!("../../sql/base/stop.sql"),
        };
        let stopped = self.session.client().query_one(statement, &[]).await;
        let row = stopped.map_err(|error| self.refused("end the base backup", error))?;
        Ok(Stopped {
            lsn: position(row.get("lsn"))?,
            label: row.get("label"),
            map: row.get("map"),
            at: row.get("stopped"),
        })
    }

    /// The server's clock; on a standby no less than the primary's in what it has replayed.
    pub async fn clock(&self) -> Result<DateTime<Utc>, PostgresError> {
        let asked = self.session.client().query_one(include_str!("../../sql/base/clock.sql"), &[]).await;
        Ok(asked.map_err(|error| self.session.failed("ask the server for the time", error))?.get("now"))
    }

    /// At most `length` bytes at `offset` of the cluster's file `path`, as they lie on the server's disk; nothing where the
    /// file is gone. A role needs the right to read files.
    pub async fn bytes(&self, path: &str, offset: u64, length: usize) -> Result<Option<Vec<u8>>, PostgresError> {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let (offset, length) = (number(offset), number(length as u64));
        let statement = include_str!("../../sql/base/page.sql");
        let asked = self.session.client().query_one(statement, &[&path, &offset, &length]).await;
        Ok(asked.map_err(|error| self.session.failed(&format!("read {path} through the server"), error))?.get("bytes"))
    }

    /// Errors once the session, and with it the backup, is gone.
    pub async fn require_alive(&self) -> Result<(), PostgresError> {
        let alive = self.session.client().query_one("SELECT 1", &[]).await;
        alive.map(drop).map_err(|error| {
            let error = self.session.failed("go on with the base backup", error);
            PostgresError::new(error.kind, "go on with the base backup: its session ended")
                .because(error)
                .hint("nothing was committed; run the job again")
        })
    }

    fn refused(&self, what: &str, error: tokio_postgres::Error) -> PostgresError {
        let error = self.session.failed(what, error);
        match error.kind {
            PostgresErrorKind::Permission => error.hint(
                "grant the role EXECUTE on pg_backup_start and pg_backup_stop: sql/roles/dbagent_base.sql does it",
            ),
            _ => error,
        }
    }
}

fn position(text: String) -> Result<Lsn, PostgresError> {
    text.parse().map_err(|error| PostgresError::new(PostgresErrorKind::Other, "read where it is").because(error))
}
