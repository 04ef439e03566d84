//! Large objects on their way back: made under their own oid, filled piece by piece.
//!
//! Owner and privileges of a large object are those of whoever restores it.

use tokio_postgres::Client;

use crate::postgres::error::PostgresError;

/// Makes the empty large object `oid`.
pub async fn create(client: &Client, oid: u32) -> Result<(), PostgresError> {
    client.query_one("SELECT pg_catalog.lo_create($1)", &[&oid]).await?;
    Ok(())
}

/// Writes `bytes` into the large object `oid` from the byte `at` on.
pub async fn write(client: &Client, oid: u32, at: i64, bytes: &[u8]) -> Result<(), PostgresError> {
    client.query_one("SELECT pg_catalog.lo_put($1, $2, $3)", &[&oid, &at, &bytes]).await?;
    Ok(())
}
