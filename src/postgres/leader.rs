//! The leader's lock: one session advisory lock per cluster name, held on a connection of its own.
//!
//! PostgreSQL gives it back when the session ends, however it ends, so a dead leader never blocks the next one. The lock
//! belongs to one database: agents of one cluster must be configured with the same one.

use std::time::Duration;

use crate::host::Clock;
use crate::model::digest::Digest;
use crate::postgres::connection::{Connection, Session};
use crate::postgres::error::PostgresError;

/// First key of our advisory locks: "dbag".
const CLASS: i32 = 0x6462_6167;

/// How often the lock's session is asked whether it is still there.
const EVERY: Duration = Duration::from_secs(5);

/// How long it may take to answer before the lock counts as lost.
const ANSWER: Duration = Duration::from_secs(10);

/// The lock, for as long as its session lives.
#[derive(Debug)]
pub struct LeaderLock {
    session: Session,
}

impl LeaderLock {
    /// Tries to take the lock of `cluster`. Nothing when another session has it or the server is a standby.
    pub async fn take(connection: &Connection, cluster: &str) -> Result<Option<Self>, PostgresError> {
        let session = connection.connect().await?;
        let key = key_of(cluster);
        let row = session.client().query_one(include_str!("../../sql/server/leader_lock.sql"), &[&CLASS, &key]).await?;
        Ok(row.get::<_, bool>(0).then_some(Self { session }))
    }

    /// Returns once the session, and with it the lock, is gone; says why. Not to be called again.
    pub async fn lost(&mut self, clock: &dyn Clock) -> String {
        self.session.ended(EVERY, ANSWER, clock).await
    }
}

fn key_of(cluster: &str) -> i32 {
    let digest = Digest::of(cluster.as_bytes());
    digest.as_bytes().iter().take(4).fold(0, |key, byte| key << 8 | i32::from(*byte))
}
