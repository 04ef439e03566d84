//! One exported snapshot over the log and its side tables, and readers on it.
//!
//! The parent and every partition are locked before the snapshot is taken (ACCESS SHARE, which holds up nobody but DDL),
//! or a partition dropped in between would be read as empty. Readers go through pages in order from the first
//! (synchronize_seqscans off).

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::TryStreamExt as _;
use rand::Rng as _;

use crate::host::Clock;
use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::Origin;
use crate::model::audit::profile::Profiles;
use crate::model::audit::row::{COPY_COLUMNS, RowFacts};
use crate::model::audit::seal::Walk;
use crate::model::audit::tally::{PLACE_COLUMNS, PLACE_FIELDS, Places};
use crate::model::copy_binary::CopyReader;
use crate::model::digest::Digest;
use crate::model::table::QualifiedTable;
use crate::postgres::audit::profiles::{self, Pinned};
use crate::postgres::connection::{Connection, Session};
use crate::postgres::copy;
use crate::postgres::databases::literal;
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::facts::ServerFacts;

/// How often locking is tried before it is given up.
const ATTEMPTS: u32 = 5;

/// Rows are hashed as UTF-8, whatever the database is in.
const ENCODING: &str = "UTF8";

/// The two keys of the lock under which checkpoints are signed: "dbag", "sign".
const SIGNING: (i32, i32) = (0x6462_6167, 0x7369_676e);

/// A leaf partition of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Its first instant, as PostgreSQL prints it; nothing for the default partition or an open end.
    pub lower: Option<String>,
    /// The instant after its last.
    pub upper: Option<String>,
    /// Whether it takes what no other takes.
    pub is_default: bool,
    /// Its size in blocks, an estimate.
    pub blocks: i64,
}

/// The head of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The newest place.
    pub seq: i64,
    /// The hash there; nothing of an empty chain.
    pub hash: Option<Digest>,
}

/// The session that holds locks and snapshot. Dropping it releases both.
#[derive(Debug)]
pub struct ChainSnapshot {
    session: Session,
    id: String,
    connection: Connection,
    /// The partitions.
    pub partitions: Vec<Partition>,
    /// The head; nothing when its row is gone.
    pub head: Option<Head>,
    /// Which database, and where it stands; the cluster's name is left to the caller.
    pub origin: Origin,
    /// The formulas that the database says are pinned for older rows.
    pub pinned: Pinned,
    /// Those that readers hash by: what is pinned, unless the caller knows better.
    pub profiles: Profiles,
}

impl ChainSnapshot {
    /// Locks, and takes the snapshot. `MissingObject` where there is no chain.
    pub async fn begin(
        connection: &Connection,
        lock_timeout: Duration,
        clock: &dyn Clock,
    ) -> Result<Self, PostgresError> {
        let session = copy::connect(connection, ENCODING).await?;
        require_installed(&session).await?;
        let facts = ServerFacts::read(&session).await?;
        for attempt in 1..=ATTEMPTS {
            match lock(&session, lock_timeout).await {
                Ok(Some((id, partitions))) => {
                    let (head, origin) = (head(&session).await?, origin(&session, facts).await?);
                    let (pinned, connection) = (profiles::pinned(&session).await?, connection.clone());
                    let profiles = pinned.profiles.clone();
                    return Ok(Self { session, id, connection, partitions, head, origin, pinned, profiles });
                }
                Err(error) if attempt == ATTEMPTS => return Err(error),
                Err(error) if !passes(error.kind) => return Err(error),
                _ => {}
            }
            session.batch("ROLLBACK").await?;
            let pause = rand::rng().random_range(200..1500);
            clock.sleep(Duration::from_millis(pause)).await;
        }
        let message = "lock the audit log: partitions kept coming or going";
        Err(PostgresError::new(PostgresErrorKind::Transient, message).hint("Run the job again."))
    }

    /// The session that sees it, for queries.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Another session that sees the same.
    pub async fn reader(&self) -> Result<Reader, PostgresError> {
        let session = copy::connect(&self.connection, ENCODING).await?;
        session.batch(&format!("{BEGIN}; SET TRANSACTION SNAPSHOT {}", literal(&self.id))).await?;
        Ok(Reader { session, profiles: self.profiles.clone() })
    }

    /// Lets one at a time sign a checkpoint of this chain, until the snapshot is released: each names the one before it.
    pub async fn lock_signing(&self) -> Result<(), PostgresError> {
        let (class, key) = SIGNING;
        self.session.batch(&format!("SELECT pg_catalog.pg_advisory_xact_lock({class}, {key})")).await
    }

    /// The hashes at some places, of those that are there.
    pub async fn hashes_at(&self, seqs: &[i64]) -> Result<BTreeMap<i64, Digest>, PostgresError> {
        let rows = self.session.client().query(include_str!("../../../sql/audit/hashes_at.sql"), &[&seqs]).await?;
        Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, &str>(1).parse().ok()?))).collect())
    }

    /// Rows by partition among the places after `seq`; every partition is there, also an empty one.
    pub async fn counts_since(&self, seq: i64) -> Result<BTreeMap<String, u64>, PostgresError> {
        let mut counts: BTreeMap<String, u64> =
            self.partitions.iter().map(|partition| (partition.table.name.clone(), 0)).collect();
        let rest = self.partitions.iter().find(|partition| partition.is_default);
        let ranges = || self.partitions.iter().filter(|partition| !partition.is_default);
        let names: Vec<&str> = ranges().map(|range| range.table.name.as_str()).collect();
        let lower: Vec<&str> = ranges().map(|range| range.lower.as_deref().unwrap_or("-infinity")).collect();
        let upper: Vec<&str> = ranges().map(|range| range.upper.as_deref().unwrap_or("infinity")).collect();
        let query = include_str!("../../../sql/audit/counts_since.sql");
        for row in self.session.client().query(query, &[&seq, &names, &lower, &upper]).await? {
            let name: Option<String> = row.get(0);
            let name = name.or_else(|| rest.map(|rest| rest.table.name.clone()));
            let rows = u64::try_from(row.get::<_, i64>(1)).unwrap_or_default();
            name.into_iter().for_each(|name| *counts.entry(name).or_default() += rows);
        }
        Ok(counts)
    }

    /// The first and last place of rows whose times lie between the bounds of `partition`; nothing where there is none.
    pub async fn range_of(&self, lower: &str, upper: &str) -> Result<Option<(i64, i64)>, PostgresError> {
        let query = include_str!("../../../sql/audit/range_of.sql");
        let row = self.session.client().query_one(query, &[&lower, &upper]).await?;
        Ok(row.get::<_, Option<i64>>(0).zip(row.get(1)))
    }

    /// Rows of the log, and places, from an instant on (as PostgreSQL reads times).
    pub async fn counts_from(&self, instant: &str) -> Result<(i64, i64), PostgresError> {
        let query = include_str!("../../../sql/audit/counts_from.sql");
        let row = self.session.client().query_one(query, &[&instant]).await?;
        Ok((row.get(0), row.get(1)))
    }

    /// Gives locks and snapshot back.
    pub async fn release(self) -> Result<(), PostgresError> {
        self.session.batch("COMMIT").await
    }
}

/// Whether another try may do better. A partition that was there when we looked and is gone when we lock it is no relation any
/// more; looking at the partitions locks each for a moment, without the parent, and whoever drops one takes parent, partition
/// and default one in that order: a deadlock.
fn passes(kind: PostgresErrorKind) -> bool {
    use PostgresErrorKind::{LockTimeout, MissingObject, Transient};
    matches!(kind, LockTimeout | MissingObject | Transient)
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL synchronize_seqscans = off; \
    SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL enable_sort = off";

/// Whether there is a log and a chain of it.
pub async fn is_installed(session: &Session) -> Result<bool, PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/audit/is_installed.sql"), &[]).await?;
    Ok(row.get::<_, bool>(0) && row.get::<_, bool>(1))
}

async fn require_installed(session: &Session) -> Result<(), PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/audit/is_installed.sql"), &[]).await?;
    match (row.get::<_, bool>(0), row.get::<_, bool>(1)) {
        (true, true) => Ok(()),
        (log, _) => {
            let what = if log { "schema audit is not installed" } else { "there is no table public.audit_logs" };
            let message = format!("read the audit chain at {}: {what}", session.place());
            Err(PostgresError::new(PostgresErrorKind::MissingObject, message)
                .hint("`dbagent audit install` makes the chain of public.audit_logs."))
        }
    }
}

/// Locks and snapshots once. Nothing when a partition came or went between looking and locking.
async fn lock(session: &Session, timeout: Duration) -> Result<Option<(String, Vec<Partition>)>, PostgresError> {
    let before = partitions(session).await?;
    session.batch(&format!("{BEGIN}; SET LOCAL lock_timeout = {}", timeout.as_millis())).await?;
    let names: Vec<String> = before.iter().map(|partition| partition.table.quoted()).collect();
    let names = [vec!["public.audit_logs, ONLY audit.chain_seq, ONLY audit.chain_head".to_owned()], names].concat();
    session.batch(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", names.join(", ONLY "))).await?;
    let row = session.client().query_one(include_str!("../../../sql/dump/export_snapshot.sql"), &[]).await?;
    let after = partitions(session).await?;
    Ok((names_of(&before) == names_of(&after)).then(|| (row.get(0), after)))
}

fn names_of(partitions: &[Partition]) -> Vec<&QualifiedTable> {
    partitions.iter().map(|partition| &partition.table).collect()
}

/// The leaf partitions of the log, as the session sees them.
pub async fn partitions(session: &Session) -> Result<Vec<Partition>, PostgresError> {
    let rows = session.client().query(include_str!("../../../sql/audit/partitions.sql"), &[]).await?;
    let partition = |row: &tokio_postgres::Row| Partition {
        table: QualifiedTable { schema: row.get(1), name: row.get(2) },
        lower: row.get(3),
        upper: row.get(4),
        is_default: row.get::<_, Option<bool>>(5).unwrap_or_default(),
        blocks: row.get(6),
    };
    Ok(rows.iter().map(partition).collect())
}

async fn origin(session: &Session, facts: ServerFacts) -> Result<Origin, PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/server/position.sql"), &[]).await?;
    let lsn: Option<&str> = row.get(0);
    Ok(Origin {
        cluster: String::new(),
        database: facts.database,
        database_oid: facts.database_oid,
        system_identifier: facts.system_identifier,
        timeline: facts.timeline,
        lsn: lsn.and_then(|lsn| lsn.parse().ok()),
        snapshot: row.get(1),
    })
}

/// The head as the session sees it.
pub async fn head(session: &Session) -> Result<Option<Head>, PostgresError> {
    let row = session.client().query_opt(include_str!("../../../sql/audit/head.sql"), &[&CHAIN]).await?;
    Ok(row.map(|row| {
        let hash: Option<String> = row.get(1);
        Head { seq: row.get(0), hash: hash.and_then(|hash| hash.parse().ok()) }
    }))
}

/// A session on the snapshot.
#[derive(Debug)]
pub struct Reader {
    session: Session,
    profiles: Profiles,
}

impl Reader {
    /// Gives every row of one partition, in the order in which they lie there.
    pub async fn rows(
        &self,
        partition: &QualifiedTable,
        each: impl FnMut(RowFacts) + Send,
    ) -> Result<(), PostgresError> {
        self.copy(&format!("SELECT {COPY_COLUMNS} FROM ONLY {}", partition.quoted()), each).await
    }

    /// Gives every row that has a place after `seq`.
    pub async fn rows_after(&self, seq: i64, each: impl FnMut(RowFacts) + Send) -> Result<(), PostgresError> {
        self.rows_between(seq, i64::MAX, each).await
    }

    /// Gives every row that has a place after `seq` and none after `last`.
    pub async fn rows_between(
        &self,
        seq: i64,
        last: i64,
        each: impl FnMut(RowFacts) + Send,
    ) -> Result<(), PostgresError> {
        let columns: Vec<String> = COPY_COLUMNS.split(", ").map(|column| format!("a.{column}")).collect();
        let select = format!(
            "SELECT {} FROM (SELECT * FROM audit.chain_seq s WHERE s.seq > {seq} AND s.seq <= {last} ORDER BY s.seq) s \
             JOIN public.audit_logs a ON a.id = s.id AND a.recorded_at = s.recorded_at",
            columns.join(", ")
        );
        self.copy(&select, each).await
    }

    async fn copy(&self, select: &str, mut each: impl FnMut(RowFacts) + Send) -> Result<(), PostgresError> {
        let statement = format!("COPY ({select}) TO STDOUT (FORMAT binary)");
        let mut reader = CopyReader::default();
        let stream = self.session.client().copy_out(&statement).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(message) = stream.try_next().await? {
            reader.take_rows(&message, &self.profiles, |row| {
                each(row);
                Ok::<_, PostgresError>(())
            })?;
        }
        Ok(reader.finish()?)
    }

    /// Walks the places after the one where `places` stands, in order.
    pub async fn places(&self, places: &mut Places) -> Result<(), PostgresError> {
        let statement = format!(
            "COPY (SELECT {PLACE_COLUMNS} FROM audit.chain_seq WHERE seq > {} ORDER BY seq) TO STDOUT (FORMAT binary)",
            places.seq
        );
        let mut reader = CopyReader::default();
        let stream = self.session.client().copy_out(&statement).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(message) = stream.try_next().await? {
            reader.take(&message, PLACE_FIELDS, |fields| Ok::<_, PostgresError>(places.take(fields)?))?;
        }
        places.finish();
        Ok(reader.finish()?)
    }

    /// Walks the places from `first` to `last`, in order.
    pub async fn stretch(&self, first: i64, last: i64, walk: &mut Walk<'_>) -> Result<(), PostgresError> {
        let statement = format!(
            "COPY (SELECT {PLACE_COLUMNS} FROM audit.chain_seq WHERE seq BETWEEN {first} AND {last} ORDER BY seq) \
             TO STDOUT (FORMAT binary)"
        );
        let mut reader = CopyReader::default();
        let stream = self.session.client().copy_out(&statement).await?;
        let mut stream = std::pin::pin!(stream);
        while let Some(message) = stream.try_next().await? {
            reader.take(&message, PLACE_FIELDS, |fields| Ok::<_, PostgresError>(walk.take(fields)?))?;
        }
        Ok(reader.finish()?)
    }

    /// Ends the transaction.
    pub async fn end(self) -> Result<(), PostgresError> {
        self.session.batch("COMMIT").await
    }
}
