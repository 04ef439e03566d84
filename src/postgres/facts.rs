//! What a session's server, database and role are: asked once, before a transaction that an error would end.

use super::connection::Session;
use super::error::{PostgresError, PostgresErrorKind};
use crate::model::lsn::{SystemId, Timeline};
use crate::model::manifest::DatabaseLocale;

/// What is known of a server, a database and a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFacts {
    /// `server_version_num`: 150014.
    pub version_number: u32,
    /// `server_version`: `15.14 (Debian 15.14-0+deb12u1)`.
    pub version: String,
    /// The cluster's identifier, where the role may read it.
    pub system_identifier: Option<SystemId>,
    /// The timeline, where the role may read it; that of the last restart point on a standby.
    pub timeline: Option<Timeline>,
    /// The database's encoding, in PostgreSQL's words.
    pub encoding: String,
    /// The database's locale.
    pub locale: DatabaseLocale,
    /// Whether it is a standby, or still recovering.
    pub in_recovery: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// Database name.
    pub database: String,
    /// Database oid.
    pub database_oid: u32,
    /// The role that acts.
    pub role: RoleFacts,
}

/// What a role is allowed to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleFacts {
    /// Its name.
    pub name: String,
    /// SUPERUSER.
    pub superuser: bool,
    /// BYPASSRLS.
    pub bypass_rls: bool,
    /// REPLICATION.
    pub replication: bool,
    /// CREATEDB.
    pub create_database: bool,
}

impl ServerFacts {
    /// Asks `session`, which must not be in a transaction.
    pub async fn read(session: &Session) -> Result<Self, PostgresError> {
        let failed = |error| session.failed("ask the server what it is", error);
        let row = session.client().query_one(include_str!("../../sql/server/facts.sql"), &[]).await.map_err(failed)?;
        let in_recovery: bool = row.get("in_recovery");
        let timeline = match in_recovery {
            true => include_str!("../../sql/server/timeline_standby.sql"),
            false => include_str!("../../sql/server/timeline_primary.sql"),
        };
        let timeline: Option<i32> = where_allowed(session, timeline).await?;
        let system_identifier: Option<i64> =
            where_allowed(session, include_str!("../../sql/server/system_identifier.sql")).await?;
        Ok(Self {
            version_number: u32::try_from(row.get::<_, i32>("version_number")).unwrap_or_default(),
            version: row.get("version"),
            system_identifier: system_identifier.map(|identifier| SystemId(identifier.cast_unsigned())),
            timeline: timeline.map(|timeline| Timeline(timeline.cast_unsigned())),
            encoding: row.get("encoding"),
            locale: DatabaseLocale { collate: row.get("collate"), ctype: row.get("ctype") },
            in_recovery,
            wal_level: row.get("wal_level"),
            database: row.get("database"),
            database_oid: row.get("database_oid"),
            role: RoleFacts {
                name: row.get("role"),
                superuser: row.get("superuser"),
                bypass_rls: row.get("bypass_rls"),
                replication: row.get("replication"),
                create_database: row.get("create_database"),
            },
        })
    }

    /// The server's major version.
    pub fn major(&self) -> u32 {
        self.version_number / 10_000
    }
}

/// The one value of `query`, or nothing where the role may not ask.
async fn where_allowed<T>(session: &Session, query: &str) -> Result<Option<T>, PostgresError>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    match session.client().query_one(query, &[]).await {
        Ok(row) => Ok(Some(row.get(0))),
        Err(error) => match session.failed("ask the server what it is", error) {
            refused if refused.kind == PostgresErrorKind::Permission => Ok(None),
            failed => Err(failed),
        },
    }
}
