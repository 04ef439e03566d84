//! The golden rows against this server: its binary COPY, which the verifier hashes, and the functions of the trigger.

use futures_util::TryStreamExt as _;
use serde_json::Value;

use crate::model::audit::profile::Profiles;
use crate::model::audit::row::RowFacts;
use crate::model::audit::vectors::ROWS_V1;
use crate::model::copy_binary::CopyReader;
use crate::postgres::connection::Session;
use crate::postgres::databases::literal;
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// Errors unless this server's binary COPY gives the bytes of the profile. The session's client_encoding must be UTF8.
pub async fn check_copy(session: &Session) -> Result<(), PostgresError> {
    let rows = rows()?;
    let count = rows.as_array().map_or(0, Vec::len);
    let columns = [
        ("id", "uuid"),
        ("user_id", "uuid"),
        ("session_id", "uuid"),
        ("action", "text"),
        ("resource", "text"),
        ("resource_id", "text"),
        ("details", "jsonb"),
        ("ip_address", "text"),
        ("user_agent", "text"),
        ("success", "bool"),
        ("error_code", "text"),
        ("error_message", "text"),
        ("recorded_at", "timestamp"),
        ("previous_hash", "text"),
        ("hash", "text"),
    ];
    let columns = columns.map(|(name, of)| format!("(v ->> '{name}')::pg_catalog.{of}")).join(", ");
    let statement = format!(
        "COPY (SELECT {columns} FROM pg_catalog.jsonb_array_elements({}::pg_catalog.jsonb) v) TO STDOUT (FORMAT binary)",
        literal(&rows.to_string())
    );
    let (mut reader, mut sound) = (CopyReader::default(), 0);
    let stream = session.client().copy_out(&statement).await?;
    let mut stream = std::pin::pin!(stream);
    while let Some(message) = stream.try_next().await? {
        reader.take_rows(&message, &Profiles::default(), |row: RowFacts| {
            sound += usize::from(row.is_sound());
            Ok::<_, PostgresError>(())
        })?;
    }
    reader.finish()?;
    if sound == count && count > 0 {
        return Ok(());
    }
    Err(other_bytes(&format!("of {count} golden rows its binary COPY gives {sound} as it must")))
}

/// Errors unless the installed functions give the bytes and hashes of the profile.
pub async fn check_functions(session: &Session) -> Result<(), PostgresError> {
    match function_fault(session).await? {
        None => Ok(()),
        Some(fault) => Err(other_bytes(&format!("audit.row_hash {fault}"))),
    }
}

/// What the function that hashes rows does with the golden rows that it must not do, in words that follow its name.
pub async fn function_fault(session: &Session) -> Result<Option<String>, PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/audit/may_hash.sql"), &[]).await?;
    let (there, allowed): (bool, bool) = (row.get(0), row.get(1));
    match (there, allowed) {
        (false, _) => return Ok(Some("is gone".to_owned())),
        (true, false) => {
            let role: &str = row.get(2);
            return Ok(Some(format!("may not be called by {role}: what it makes of the golden rows is not known")));
        }
        (true, true) => {}
    }
    let rows = rows()?;
    let count = rows.as_array().map_or(0, Vec::len);
    let rows = rows.to_string();
    let wrong = session.client().query(include_str!("../../../sql/audit/check_vectors.sql"), &[&rows]).await?;
    let fault = |row: &tokio_postgres::Row| {
        let (wrong, name): (_, &str) = (wrong.len(), row.get(0));
        format!("gives {wrong} of {count} golden rows another hash, {name:?} first")
    };
    Ok(wrong.first().map(fault))
}

fn rows() -> Result<Value, PostgresError> {
    let unread = |error| PostgresError::new(PostgresErrorKind::Other, "read the golden rows").because(error);
    let mut vectors: Value = serde_json::from_str(ROWS_V1).map_err(unread)?;
    Ok(vectors["rows"].take())
}

fn other_bytes(what: &str) -> PostgresError {
    let message = format!("hash audit rows on this server as dbagent/audit_logs/v1 says: {what}");
    PostgresError::new(PostgresErrorKind::Other, message)
        .hint("Nothing can be said of the chain here. The database's encoding must convert to UTF8; report this.")
}
