//! What is asked of a server as a whole: its version, where it lies, that its log is on the disk.

use std::path::PathBuf;

use crate::model::lsn::Lsn;
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

    /// Returns when the server's log is on its disk up to `position`, or up to here where that is not known: a transaction
    /// that did not wait for its commit to be there is seen before (manual, "Asynchronous Commit"). On a primary only.
    pub async fn flush_log(&self, position: Option<Lsn>) -> Result<(), PostgresError> {
        let session = self.connect().await?;
        let client = session.client();
        if let Some(position) = position {
            let flushed = include_str!("../../sql/server/log_is_flushed.sql");
            if client.query_one(flushed, &[&position.to_string()]).await?.get(0) {
                return Ok(());
            }
        }
        session.batch("BEGIN READ WRITE; SET LOCAL synchronous_commit = local").await?;
        client.query_one(include_str!("../../sql/server/flush_log.sql"), &[]).await?;
        session.batch("COMMIT").await
    }
}
