//! Whole databases: does one exist, make one, swap one into another's place, drop one.
//!
//! A database being restored has a name that says so and takes its real name only when it is proven equal; renaming is
//! transactional, so that there is never a moment without a database of that name.

use tokio_postgres::Client;

use crate::model::manifest::SourceRecord;
use crate::model::table::quote_identifier;
use crate::postgres::error::PostgresError;

/// What the name of a database begins with while it is being restored.
pub const INCOMPLETE: &str = "dbagent_restore_incomplete_";

/// Whether the database `name` exists.
pub async fn exists(client: &Client, name: &str) -> Result<bool, PostgresError> {
    let row = client.query_opt(include_str!("../../sql/server/database_exists.sql"), &[&name]).await?;
    Ok(row.is_some())
}

/// Databases left behind by restores that did not end.
pub async fn incomplete(client: &Client) -> Result<Vec<String>, PostgresError> {
    let rows = client.query(include_str!("../../sql/server/incomplete_databases.sql"), &[&INCOMPLETE]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Makes an empty database as `source` was: its encoding and locale, nothing of `template1`.
pub async fn create_like(client: &Client, name: &str, source: &SourceRecord) -> Result<(), PostgresError> {
    let mut statement =
        format!("CREATE DATABASE {} TEMPLATE template0 ENCODING {}", quote_identifier(name), literal(&source.encoding));
    if let Some(locale) = &source.locale {
        statement.push_str(&format!(" LC_COLLATE {} LC_CTYPE {}", literal(&locale.collate), literal(&locale.ctype)));
    }
    Ok(client.batch_execute(&statement).await?)
}

/// Gives the database `from` the name `to`. A database that has that name now gets the name `aside` in the same
/// transaction. Its sessions are ended first and new ones kept out, or a connection pool would be back before the
/// renaming; when that fails it is opened again.
pub async fn rename(client: &Client, from: &str, to: &str, aside: Option<&str>) -> Result<(), PostgresError> {
    let Some(aside) = aside else { return swap(client, from, to, None).await };
    let allow = |allowed: bool| format!("ALTER DATABASE {} ALLOW_CONNECTIONS {allowed}", quote_identifier(to));
    client.batch_execute(&allow(false)).await?;
    let swapped = async {
        client.query(include_str!("../../sql/server/end_sessions.sql"), &[&to]).await?;
        swap(client, from, to, Some(aside)).await
    }
    .await;
    if swapped.is_err() {
        client.batch_execute(&allow(true)).await?;
    }
    swapped
}

async fn swap(client: &Client, from: &str, to: &str, aside: Option<&str>) -> Result<(), PostgresError> {
    let mut statements = vec!["BEGIN".to_owned()];
    if let Some(aside) = aside {
        statements.push(format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(to), quote_identifier(aside)));
    }
    statements.push(format!("ALTER DATABASE {} RENAME TO {}", quote_identifier(from), quote_identifier(to)));
    statements.push("COMMIT".to_owned());
    match client.batch_execute(&statements.join("; ")).await {
        Ok(()) => Ok(()),
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error.into())
        }
    }
}

/// Drops the database `name`, ending its sessions.
pub async fn drop(client: &Client, name: &str) -> Result<(), PostgresError> {
    Ok(client.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", quote_identifier(name))).await?)
}

/// `text` as an SQL string literal (PostgreSQL manual, "String Constants"); standard_conforming_strings is on.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
