//! Partitions at the server: what is there, and the few changes that the agent may ask for.
//!
//! Facts come from the catalog: bounds by `pg_get_expr(relpartbound)`, never by guessing from names. Every change goes
//! through a function of `sql/schema/` that checks it once more, except DETACH CONCURRENTLY, which no function can do. The
//! surprising thing: a session here is set to UTC and ISO dates, because PostgreSQL prints bounds in the session's zone.

mod change;
pub mod convert;
mod facts;

use crate::model::table::QualifiedTable;
use crate::postgres::connection::{Connection, Session};
use crate::postgres::error::{PostgresError, PostgresErrorKind};

pub use change::Patience;
pub use facts::{Left, Missing, Origin, references};

/// A session that maintains partitions.
#[derive(Debug)]
pub struct Maintenance {
    session: Session,
}

impl Maintenance {
    /// Connects by `connection`, which acts as a member of dbagent_part, or as whoever looks on.
    pub async fn connect(connection: &Connection) -> Result<Self, PostgresError> {
        let session = connection.connect().await?;
        session
            .batch(
                "SET timezone = 'UTC'; SET datestyle = 'ISO, YMD'; SET default_transaction_read_only = off; \
                 SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0",
            )
            .await?;
        Ok(Self { session })
    }

    /// The session below.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Takes the lock under which one agent at a time maintains this database, for as long as the session lasts.
    pub async fn lock(&self) -> Result<(), PostgresError> {
        let row = self.session.client().query_one(include_str!("../../../sql/partition/lock.sql"), &[]).await?;
        if row.get(0) {
            return Ok(());
        }
        let message = format!("maintain partitions at {}: another run is doing so", self.session.place());
        Err(PostgresError::new(PostgresErrorKind::LockTimeout, message).hint("Wait for it to end."))
    }

    /// Errors unless the functions that changes go through are installed and may be called.
    pub async fn require_installed(&self) -> Result<(), PostgresError> {
        let query = "SELECT pg_catalog.to_regproc('dbagent.make_partition') IS NOT NULL";
        // Without USAGE on the schema the function is not seen, and may not be called either.
        match self.session.client().query_one(query, &[]).await {
            Ok(row) if row.get(0) => Ok(()),
            Ok(_) => Err(not_installed(&self.session)),
            Err(error) => match PostgresError::from(error) {
                denied if denied.kind == PostgresErrorKind::Permission => Err(not_installed(&self.session)),
                error => Err(error),
            },
        }
    }
}

fn not_installed(session: &Session) -> PostgresError {
    let message =
        format!("maintain partitions at {}: the functions for it are not there for this role", session.place());
    PostgresError::new(PostgresErrorKind::MissingObject, message).hint(
        "`dbagent init --install-sql --admin-url …` installs them; the login must be a member of dbagent_part, and \
         [postgres.roles] may name it: partition = \"dbagent_part\".",
    )
}

fn table_of(row: &tokio_postgres::Row, at: usize) -> QualifiedTable {
    QualifiedTable { schema: row.get(at), name: row.get(at + 1) }
}
