//! The changes, each in a transaction of its own, each patient about locks: short waits, several tries, then an error.
//!
//! Whoever comes after us queues behind our waiting lock, so a wait is never longer than `lock_timeout`; between two tries
//! the queue is let through, for a random while so that two who want the same do not meet again.

use std::time::Duration;

use rand::Rng as _;
use tokio_postgres::types::ToSql;

use crate::host::Clock;
use crate::model::digest::TableSum;
use crate::model::id::ArtifactId;
use crate::model::partition::{Make, Partition, Rule};
use crate::model::table::{QualifiedTable, quote_identifier};
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::partitions::Maintenance;

/// How locks are waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience<'a> {
    /// Longest single wait.
    pub lock_timeout: Duration,
    /// Tries in all.
    pub attempts: u32,
    /// What waits between two.
    pub clock: &'a dyn Clock,
}

impl Patience<'_> {
    /// Whether after the failure `error` of the try number `attempt` another is worth it; waits before it says yes.
    pub async fn again(&self, error: &PostgresError, attempt: u32) -> bool {
        let passing = matches!(error.kind, PostgresErrorKind::LockTimeout | PostgresErrorKind::Transient);
        if !passing || attempt >= self.attempts {
            return false;
        }
        let pause = rand::rng().random_range(200..1500);
        self.clock.sleep(Duration::from_millis(pause)).await;
        true
    }
}

impl Maintenance {
    /// Hands `table` to partition maintenance under `rule`. Gives what was changed, in words. Needs an administrator.
    pub async fn register(&self, table: &QualifiedTable, rule: &Rule) -> Result<Vec<String>, PostgresError> {
        let query = include_str!("../../../sql/partition/register.sql");
        let retention = rule.retention.map(|span| span.to_string());
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&table.schema, &table.name, &rule.key, &retention, &rule.archive, &rule.seal];
        let rows = self.session.client().query(query, &parameters).await;
        let rows = rows.map_err(|error| self.session.failed(&format!("register {table}"), error))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// Remembers the partitions of `parent` that are there.
    pub async fn see(&self, parent: &QualifiedTable) -> Result<(), PostgresError> {
        let query = include_str!("../../../sql/partition/see.sql");
        self.session.client().query_one(query, &[&parent.schema, &parent.name]).await?;
        Ok(())
    }

    /// Makes a partition of `parent`. Gives the rows that were moved out of the default partition.
    pub async fn make(
        &self,
        parent: &QualifiedTable,
        make: &Make,
        patience: Patience<'_>,
    ) -> Result<u64, PostgresError> {
        let what = format!("make the partition {}", make.table);
        let parameters: [&(dyn ToSql + Sync); 5] =
            [&parent.schema, &parent.name, &make.table.name, &make.from, &make.to];
        let row = self.change(&what, include_str!("../../../sql/partition/make.sql"), &parameters, patience).await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// Records that `content` of the relation `oid` is in the archive `id`.
    pub async fn record_archive(&self, oid: u32, id: ArtifactId, content: &TableSum) -> Result<(), PostgresError> {
        let query = include_str!("../../../sql/partition/record_archive.sql");
        let rows = i64::try_from(content.rows).unwrap_or(i64::MAX);
        let (id, digest) = (id.to_string(), content.sum.to_string());
        self.session.client().query_one(query, &[&oid, &id, &rows, &digest]).await?;
        Ok(())
    }

    /// Detaches a partition; CONCURRENTLY where `concurrently` says that the server and the rights allow it.
    pub async fn detach(
        &self,
        parent: &QualifiedTable,
        partition: &Partition,
        concurrently: Option<&str>,
        patience: Patience<'_>,
    ) -> Result<(), PostgresError> {
        let what = format!("detach the partition {}", partition.table);
        let only_check = concurrently.is_some();
        let parameters: [&(dyn ToSql + Sync); 4] = [&parent.schema, &parent.name, &partition.oid, &only_check];
        self.change(&what, include_str!("../../../sql/partition/detach.sql"), &parameters, patience).await?;
        match concurrently {
            Some(owner) => self.detach_concurrently(parent, partition, owner, patience).await,
            None => Ok(()),
        }
    }

    /// Finishes a detachment that was cut off.
    pub async fn finish_detach(
        &self,
        parent: &QualifiedTable,
        partition: &Partition,
        patience: Patience<'_>,
    ) -> Result<(), PostgresError> {
        let what = format!("finish the detachment of {}", partition.table);
        let parameters: [&(dyn ToSql + Sync); 3] = [&parent.schema, &parent.name, &partition.oid];
        self.change(&what, include_str!("../../../sql/partition/finish_detach.sql"), &parameters, patience).await?;
        Ok(())
    }

    /// The owner to act as for DETACH CONCURRENTLY of a partition of the table `oid`; nothing where the login may not.
    pub async fn may_act_as_owner(&self, oid: u32) -> Result<Option<String>, PostgresError> {
        let row =
            self.session.client().query_one(include_str!("../../../sql/partition/may_act_as.sql"), &[&oid]).await?;
        Ok(row.get::<_, bool>(1).then(|| row.get(0)))
    }

    /// DETACH CONCURRENTLY waits for every transaction that uses the table, holding a lock that lets everybody work; it is
    /// two transactions, so no function can do it, and it is not tried twice: what is half done is finished later.
    async fn detach_concurrently(
        &self,
        parent: &QualifiedTable,
        partition: &Partition,
        owner: &str,
        patience: Patience<'_>,
    ) -> Result<(), PostgresError> {
        let client = self.session.client();
        let role: String = client.query_one("SELECT pg_catalog.current_setting('role')", &[]).await?.get(0);
        let timeout = patience.lock_timeout.as_millis();
        client.batch_execute(&format!("SET ROLE {}", quote_identifier(owner))).await?;
        client.batch_execute(&format!("SET lock_timeout = {timeout}")).await?;
        let statement =
            format!("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY", parent.quoted(), partition.table.quoted());
        let detached = client.batch_execute(&statement).await;
        let back =
            if role == "none" { "RESET ROLE".to_owned() } else { format!("SET ROLE {}", quote_identifier(&role)) };
        client.batch_execute(&format!("RESET lock_timeout; {back}")).await?;
        detached.map_err(|error| {
            self.session.failed(&format!("detach the partition {} concurrently", partition.table), error)
        })
    }

    /// Leaves a detached partition as a table.
    pub async fn keep_detached(&self, oid: u32) -> Result<(), PostgresError> {
        self.session.client().query_one(include_str!("../../../sql/partition/keep_detached.sql"), &[&oid]).await?;
        Ok(())
    }

    /// Drops a detached partition. Gives the rows that went.
    pub async fn drop_detached(
        &self,
        oid: u32,
        table: &QualifiedTable,
        patience: Patience<'_>,
    ) -> Result<u64, PostgresError> {
        let query = include_str!("../../../sql/partition/drop_detached.sql");
        let row = self.change(&format!("drop {table}"), query, &[&oid], patience).await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
    }

    /// Calls a function in a transaction of its own, waiting for locks as `patience` says.
    pub(super) async fn change(
        &self,
        what: &str,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
        patience: Patience<'_>,
    ) -> Result<tokio_postgres::Row, PostgresError> {
        let client = self.session.client();
        let mut attempt = 1;
        loop {
            let begin = format!("BEGIN; SET LOCAL lock_timeout = {}", patience.lock_timeout.as_millis());
            client.batch_execute(&begin).await?;
            let done = client.query_one(query, parameters).await;
            let error = match done {
                Ok(row) => {
                    client.batch_execute("COMMIT").await?;
                    return Ok(row);
                }
                Err(error) => self.session.failed(what, error),
            };
            client.batch_execute("ROLLBACK").await?;
            if !patience.again(&error, attempt).await {
                return Err(error);
            }
            attempt += 1;
        }
    }
}
