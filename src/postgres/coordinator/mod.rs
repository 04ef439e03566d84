//! The coordinator of a dump: the one session that holds the locks and the exported snapshot for as long as it takes.
//!
//! The order is what matters: tables are locked first and the snapshot is taken only then, because TRUNCATE and
//! rewriting ALTERs are not MVCC-safe: a snapshot older than the locks can see empty tables without any error. LOCK takes
//! no snapshot itself (PostgreSQL, src/backend/tcop/pquery.c, PlannedStmtRequiresSnapshot), which makes this possible in
//! one REPEATABLE READ transaction.

mod facts;
mod scope;

use std::time::Duration;

use chrono::{DateTime, Utc};
use rand::Rng as _;

use crate::host::Clock;
use crate::model::blocks::RelationKey;
use crate::model::digest::Digest;
use crate::model::key_text::KeyType;
use crate::model::lsn::{Lsn, Timeline};
use crate::model::manifest::{LogMark, SequenceRecord, SourceRecord, TableRecord};
use crate::model::table::{QualifiedTable, TableName};
use crate::postgres::connection::{Connection, Session};
use crate::postgres::error::{PostgresError, PostgresErrorKind};

use scope::{Covered, Expansion};

/// How often locking is tried before a dump is given up.
const ATTEMPTS: u32 = 5;

/// Tables locked by one statement.
const LOCKED_AT_ONCE: usize = 500;

/// What a dump is to cover.
#[derive(Clone, Debug)]
pub struct DumpScope {
    /// The tables; empty means every user table.
    pub tables: Vec<TableName>,
    /// Whether large objects are dumped.
    pub large_objects: bool,
    /// Longest wait for a lock, so that nobody queues behind us for longer.
    pub lock_timeout: Duration,
}

/// One covered table.
#[derive(Clone, Debug)]
pub struct CoveredTable {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Whether it is partitioned and so has no rows of its own.
    pub is_partitioned: bool,
    /// The partitioned table it belongs to.
    pub partition_of: Option<QualifiedTable>,
    /// Relation oid.
    pub oid: u32,
    /// Columns as COPY lists them.
    pub columns: Vec<String>,
    /// Size of its rows in bytes, an estimate.
    pub estimated_bytes: u64,
    /// Number of its rows, an estimate.
    pub estimated_rows: u64,
    /// The columns of its primary key, in the key's order; empty where rows have no key that COPY lists.
    pub key: Vec<String>,
    /// The types of the key's columns, where their text is known without the server.
    pub key_types: Option<Vec<KeyType>>,
    /// Size of its own storage in bytes, exact.
    pub own_bytes: u64,
    /// Number of its storage file.
    pub relfilenode: u32,
    /// Its storage, where the log has every change of it.
    pub storage: Option<RelationKey>,
    /// Digest over its columns, types and keys; absent for a partition.
    pub fingerprint: Option<Digest>,
}

/// Bytes of storage that a row takes at least, for tables that were never counted.
const LEAST_ROW_BYTES: u64 = 128;

impl CoveredTable {
    /// Number of its rows, a guess that is never far too small.
    pub fn guessed_rows(&self) -> u64 {
        self.estimated_rows.max(self.own_bytes / LEAST_ROW_BYTES)
    }

    /// Where the key's columns stand among those that COPY lists.
    pub fn key_positions(&self) -> Vec<usize> {
        self.key.iter().filter_map(|column| self.columns.iter().position(|other| other == column)).collect()
    }
}

/// The session that holds locks and snapshot. Dropping it releases both.
#[derive(Debug)]
pub struct Coordinator {
    session: Session,
    snapshot: String,
    source: SourceRecord,
    on_standby: bool,
    tables: Vec<CoveredTable>,
    all_tables: bool,
    sequences: Vec<SequenceRecord>,
    fingerprint: Digest,
    large_objects: u64,
    lock_timeout: Duration,
    outlasts_a_crash: bool,
}

impl Coordinator {
    /// Locks what `scope` covers and takes the snapshot. Everything that could keep the dump from being whole is found
    /// here, all of it in one error, each with the statement that cures it.
    pub async fn begin(connection: &Connection, scope: &DumpScope, clock: &dyn Clock) -> Result<Self, PostgresError> {
        let session = connection.connect().await?;
        let mut attempt = 1;
        loop {
            match Self::attempt(&session, scope, clock).await {
                Ok(Some(snapshot)) => {
                    let mut coordinator = Self::look_around(session, scope, snapshot).await?;
                    coordinator.outlasts_a_crash = coordinator.flush(connection).await;
                    return Ok(coordinator);
                }
                Ok(None) => {}
                Err(error) if error.kind == PostgresErrorKind::LockTimeout && attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
            session.client().batch_execute("ROLLBACK").await?;
            if attempt == ATTEMPTS {
                let message = "lock the tables of the dump: partitions kept coming or going";
                return Err(PostgresError::new(PostgresErrorKind::Transient, message).hint("Run the job again."));
            }
            attempt += 1;
            let pause = rand::rng().random_range(200..2000);
            clock.sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Locks and snapshots once. Nothing when the set of tables changed between looking and locking.
    async fn attempt(
        session: &Session,
        scope: &DumpScope,
        clock: &dyn Clock,
    ) -> Result<Option<Snapshot>, PostgresError> {
        let client = session.client();
        let before = Expansion::read(client, &scope.tables).await?;
        before.require_all_found(&scope.tables)?;
        facts::require_readable(client, &before.tables).await?;
        let position = facts::log_position(client).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {}; \
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL statement_timeout = 0",
            scope.lock_timeout.as_millis()
        );
        client.batch_execute(&begin).await?;
        for tables in before.tables.chunks(LOCKED_AT_ONCE) {
            let names: Vec<String> = tables.iter().map(|covered| covered.table.quoted()).collect();
            client.batch_execute(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", names.join(", ONLY "))).await?;
        }
        let row = client.query_one(include_str!("../../../sql/dump/export_snapshot.sql"), &[]).await?;
        let taken = clock.now();
        let next_xid = u64::try_from(row.get::<_, i64>(2)).ok();
        let log = position.zip(next_xid).map(|(lsn, next_xid)| LogMark { lsn, next_xid });
        let after = Expansion::read(client, &scope.tables).await?;
        Ok((before == after).then(|| Snapshot { id: row.get(0), text: row.get(1), taken, log, covered: after.tables }))
    }

    async fn look_around(session: Session, scope: &DumpScope, snapshot: Snapshot) -> Result<Self, PostgresError> {
        let client = session.client();
        let (mut source, on_standby) = facts::source(client).await?;
        source.snapshot = Some(snapshot.text);
        source.taken = Some(snapshot.taken);
        source.log = snapshot.log;
        let mut tables = facts::tables(client, snapshot.covered, &source).await?;
        facts::require_plain_names(&source, &tables)?;
        let mut faults = Vec::new();
        let (large_objects, unreadable) = facts::large_objects(client).await?;
        if scope.large_objects && unreadable > 0 {
            faults.push(facts::unreadable_large_objects(unreadable));
        }
        let (sequences, hidden) = facts::sequences(client, &tables).await?;
        faults.extend(hidden);
        facts::require_none(faults)?;
        let fingerprint = facts::fingerprint(client, &mut tables).await?;
        let (snapshot, all_tables, lock_timeout) = (snapshot.id, scope.tables.is_empty(), scope.lock_timeout);
        Ok(Self {
            session,
            snapshot,
            source,
            on_standby,
            tables,
            all_tables,
            sequences,
            fingerprint,
            large_objects,
            lock_timeout,
            outlasts_a_crash: false,
        })
    }

    /// Has the log of everything that the snapshot sees on the disk, if that can be had: otherwise a server that crashes
    /// forgets transactions that the dump holds, and numbers others like them.
    async fn flush(&self, connection: &Connection) -> bool {
        if self.on_standby {
            return true;
        }
        let flushed = connection.flush_log(self.source.lsn).await;
        if let Err(error) = &flushed {
            let risk =
                "a crash of the server may forget the last commits that did not wait for the disk; the dump has them";
            tracing::warn!(%error, "{risk}");
        }
        flushed.is_ok()
    }

    /// The exported snapshot's name, for `pg_dump --snapshot`.
    pub fn snapshot(&self) -> &str {
        &self.snapshot
    }

    /// Whether the server is a standby, whose replay may take the snapshot away.
    pub fn is_on_standby(&self) -> bool {
        self.on_standby
    }

    /// Whether a crash of the server takes nothing away that the snapshot sees.
    pub fn outlasts_a_crash(&self) -> bool {
        self.outlasts_a_crash
    }

    /// Longest wait for a lock, of pg_dump too.
    pub fn lock_timeout(&self) -> Duration {
        self.lock_timeout
    }

    /// The covered tables, partitioned ones and leaves each by themselves.
    pub fn tables(&self) -> &[CoveredTable] {
        &self.tables
    }

    /// Whether every user table is covered.
    pub fn covers_all_tables(&self) -> bool {
        self.all_tables
    }

    /// Bytes of rows to expect, an estimate.
    pub fn estimated_bytes(&self) -> u64 {
        self.tables.iter().map(|table| table.estimated_bytes).sum()
    }

    /// Sequence values, read after the snapshot and therefore not behind it.
    pub fn sequences(&self) -> &[SequenceRecord] {
        &self.sequences
    }

    /// Digest over columns, types and keys of the covered tables.
    pub fn schema_fingerprint(&self) -> Digest {
        self.fingerprint
    }

    /// Large objects in the database.
    pub fn large_object_count(&self) -> u64 {
        self.large_objects
    }

    /// The database, for the manifest; `tools` is left to the caller.
    pub fn source_record(&self) -> SourceRecord {
        self.source.clone()
    }

    /// The covered tables, for the manifest; `content` is left to the caller.
    pub fn table_records(&self) -> Vec<TableRecord> {
        let record = |covered: &CoveredTable| TableRecord {
            table: covered.table.clone(),
            oid: covered.oid,
            partition_of: covered.partition_of.clone(),
            columns: covered.columns.clone(),
            content: None,
            relfilenode: (!covered.is_partitioned).then_some(covered.relfilenode),
            fingerprint: covered.fingerprint,
            key: None,
            change: None,
        };
        self.tables.iter().map(record).collect()
    }

    /// Errors once the session, and with it the snapshot, is gone.
    pub async fn require_alive(&self) -> Result<(), PostgresError> {
        let alive = self.session.client().query_one("SELECT 1", &[]).await;
        alive.map(|_| ()).map_err(|error| {
            let error = PostgresError::from(error);
            let message = format!("keep the dump's snapshot: its session ended: {error}");
            PostgresError::new(error.kind, message).hint("Nothing was committed; run the job again.")
        })
    }

    /// Where each timeline before the present one was left; nothing where this role may not read it.
    pub async fn timeline_history(&self) -> Result<Option<Vec<(Timeline, Lsn)>>, PostgresError> {
        facts::timeline_history(self.session.client(), self.source.timeline).await
    }

    /// Gives locks and snapshot back.
    pub async fn release(self) -> Result<(), PostgresError> {
        Ok(self.session.client().batch_execute("COMMIT").await?)
    }
}

struct Snapshot {
    id: String,
    text: String,
    taken: DateTime<Utc>,
    log: Option<LogMark>,
    covered: Vec<Covered>,
}
