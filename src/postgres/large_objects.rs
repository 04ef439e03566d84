//! Large objects on their way back, filled piece by piece. pg_restore makes them, with their owners.

use tokio_postgres::Client;

use crate::postgres::error::PostgresError;

/// Writes `bytes` into the large object `oid` from the byte `at` on.
pub async fn write(client: &Client, oid: u32, at: i64, bytes: &[u8]) -> Result<(), PostgresError> {
    client.query_one("SELECT pg_catalog.lo_put($1, $2, $3)", &[&oid, &at, &bytes]).await?;
    Ok(())
}
