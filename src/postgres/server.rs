//! What must be known of a server before anything else: its version.

use std::path::PathBuf;

use crate::postgres::connection::Connection;
use crate::postgres::error::PostgresError;

impl Connection {
    /// The server's major version.
    pub async fn server_major(&self) -> Result<u32, PostgresError> {
        let session = self.connect().await?;
        let number = "SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4";
        let number: i32 = session.client().query_one(number, &[]).await?.get(0);
        Ok(u32::try_from(number / 10_000).unwrap_or_default())
    }

    /// The server's data directory; nothing where the role may not know it.
    pub async fn data_directory(&self) -> Result<Option<PathBuf>, PostgresError> {
        let session = self.connect().await?;
        let row = session.client().query_one(include_str!("../../sql/wal/data_directory.sql"), &[]).await?;
        Ok(row.get::<_, Option<String>>(0).map(PathBuf::from))
    }
}
