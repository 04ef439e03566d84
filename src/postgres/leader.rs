//! The leader's lock: one session advisory lock per cluster name, held on a connection of its own.
//!
//! PostgreSQL gives it back when the session ends, however it ends, so a dead leader never blocks the next one. The lock
//! belongs to one database: agents of one cluster must be configured with the same one. A standby has locks of its own,
//! which the primary knows nothing of: they keep two agents of that standby apart, and are given up when it is promoted.

use std::time::Duration;

use crate::host::Clock;
use crate::model::digest::Digest;
use crate::model::side::Side;
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
    side: Side,
}

/// What became of an attempt to take the lock.
#[derive(Debug)]
pub struct Attempt {
    /// On which side the server is.
    pub side: Side,
    /// The lock; nothing when another session has it, or the server is a standby and that was not asked for.
    pub lock: Option<LeaderLock>,
}

impl LeaderLock {
    /// Tries to take the lock of `cluster`, on a standby only where `on_standby` says so.
    pub async fn take(connection: &Connection, cluster: &str, on_standby: bool) -> Result<Attempt, PostgresError> {
        let session = connection.connect().await?;
        let (key, query) = (key_of(cluster), include_str!("../../sql/server/leader_lock.sql"));
        let row = session.client().query_one(query, &[&CLASS, &key, &on_standby]).await?;
        let side = Side::of(row.get("on_standby"));
        let taken: bool = row.get("taken");
        Ok(Attempt { side, lock: taken.then_some(Self { session, side }) })
    }

    /// On which side of a replication it leads.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Returns once the session, and with it the lock, is gone, or the server has changed sides; says why. Not to be
    /// called again.
    pub async fn lost(&mut self, clock: &dyn Clock) -> String {
        let promoted = include_str!("../../sql/server/is_promoted.sql");
        let unless = match self.side {
            Side::Standby => (promoted, "the standby was promoted"),
            Side::Primary => ("SELECT false", ""),
        };
        self.session.ended(EVERY, ANSWER, unless, clock).await
    }
}

fn key_of(cluster: &str) -> i32 {
    let digest = Digest::of(cluster.as_bytes());
    digest.as_bytes().iter().take(4).fold(0, |key, byte| key << 8 | i32::from(*byte))
}
