//! Loads the rows of a dump into tables: one reading of the archive, COPY on several connections at once.
//!
//! The archive is never on disk. Rows are cut into blocks at line ends and dealt out to the connections in turn, so that
//! one large table is loaded by all of them; a row longer than a block goes to one of them piece by piece. The order of
//! rows inside a table is not kept; their sum proves them. With few connections a large table that was just made goes
//! over one of them instead and its rows are frozen, which costs less over all.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::host::Source;
use crate::host::failpoint::{FailPoint, pass};
use crate::model::event::{Event, Events};
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::pipeline::archive::{ArchiveReader, ArchiveTable, Event as ArchiveEvent};
use crate::pipeline::fetch;
use crate::postgres::{PostgresError, Session, copy, large_objects, tables};

/// Bytes of rows in one block.
const BLOCK: usize = 1 << 20;

/// Blocks waiting between the reader and the connections, and before each connection.
const WAITING: usize = 2;

/// From how many bytes of rows on a new table is worth a transaction that freezes them.
const WORTH_FREEZING: usize = BLOCK / 2;

/// The most connections with which freezing pays. Rows that are not frozen are marked as committed by whoever reads them
/// first, which writes every page once more and, with checksums, into the log; but only one connection can freeze them
/// (PostgreSQL manual, COPY, "FREEZE"), so that from here on loading them over all is faster.
const FREEZING_CONNECTIONS: usize = 2;

/// Which rows go where.
pub trait Routing: Send {
    /// The COPY statement to run for `table`, whose own statement in the archive is `statement`; nothing to skip it.
    fn copy_statement(&self, table: &QualifiedTable, statement: &str) -> Option<String>;

    /// The table that this statement fills, where the restore has made it: empty, and nobody looks at it yet.
    fn made(&self, _table: &QualifiedTable) -> Option<QualifiedTable> {
        None
    }

    /// Whether contents of large objects are wanted too; they must be there, empty.
    fn wants_large_objects(&self) -> bool {
        false
    }
}

/// What pg_dump writes after a table's rows (PostgreSQL, src/bin/pg_dump/pg_dump.c, dumpTableData_copy).
const END_MARK: &[u8] = b"\\.\n\n\n";

enum Order {
    Begin(Target),
    Rows {
        bytes: Bytes,
        /// Whether the last of them is whole.
        ends: bool,
    },
    End,
    LargeObject(u32),
    LargeObjectData(Vec<u8>),
}

/// Where a table's rows go.
#[derive(Clone, Default)]
struct Target {
    statement: String,
    /// The table, where the restore has made it.
    made: Option<QualifiedTable>,
}

/// Reads `source` to its end and loads what `routing` wants over `sessions`. Gives the sessions back.
pub async fn load(
    source: Box<dyn Source>,
    sessions: Vec<Session>,
    routing: Box<dyn Routing>,
    events: Events,
) -> Result<Vec<Session>, Failure> {
    let (orders, mut waiting) = mpsc::channel(WAITING);
    let reading = tokio::task::spawn_blocking(move || read(source, routing, orders));
    let mut loader = Loader::new(sessions, events);
    let loaded = async {
        while let Some(order) = waiting.recv().await {
            loader.follow(order).await?;
        }
        Ok::<(), Failure>(())
    }
    .await;
    drop(waiting);
    let read = reading.await.map_err(|error| {
        Failure::new(FailureKind::Failed, "read the archive: its thread ended badly").because(error)
    })?;
    loaded?;
    read?;
    Ok(loader.into_sessions())
}

/// Reads the archive on a thread of its own. A loader that has gone away ends it without complaint: it has its own error.
fn read(mut source: Box<dyn Source>, routing: Box<dyn Routing>, orders: mpsc::Sender<Order>) -> Result<(), Failure> {
    let mut reader = ArchiveReader::default();
    let mut dealer = Dealer { routing, orders, wanted: false, block: BytesMut::new(), gone: false };
    let mut buffer = vec![0; BLOCK];
    loop {
        let taken = source.read(&mut buffer).map_err(|error| fetch::failure(error, "read the archive"))?;
        if taken == 0 {
            break;
        }
        let mut input = &buffer[..taken];
        while let Some(event) = reader.next(&mut input)? {
            dealer.take(event)?;
        }
        if dealer.gone {
            return Ok(());
        }
    }
    reader.finish()?;
    source.finish().map(|_| ()).map_err(damaged)
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(FailureKind::Integrity, "read the archive")
        .because(error)
        .hint("Nothing of it is used. Try another copy or another backup.")
}

/// Turns the archive's events into orders for the connections.
struct Dealer {
    routing: Box<dyn Routing>,
    orders: mpsc::Sender<Order>,
    wanted: bool,
    block: BytesMut,
    gone: bool,
}

impl Dealer {
    fn order(&mut self, order: Order) {
        self.gone = self.gone || self.orders.blocking_send(order).is_err();
    }

    fn take(&mut self, event: ArchiveEvent<'_>) -> Result<(), Failure> {
        match event {
            ArchiveEvent::TableBegin(begun) => self.begin(&begun),
            ArchiveEvent::Rows(rows) => self.rows(rows),
            ArchiveEvent::TableEnd => return self.end(),
            ArchiveEvent::LargeObjectBegin { oid } if self.routing.wants_large_objects() => {
                self.order(Order::LargeObject(oid));
            }
            ArchiveEvent::LargeObjectData(bytes) if self.routing.wants_large_objects() => {
                self.order(Order::LargeObjectData(bytes.to_vec()));
            }
            ArchiveEvent::LargeObjectBegin { .. } | ArchiveEvent::LargeObjectData(_) | ArchiveEvent::LargeObjectEnd => {
            }
        }
        Ok(())
    }

    fn begin(&mut self, begun: &ArchiveTable) {
        let statement = self.routing.copy_statement(&begun.table, &begun.copy_statement);
        self.wanted = statement.is_some();
        if let Some(statement) = statement {
            let made = self.routing.made(&begun.table);
            self.order(Order::Begin(Target { statement, made }));
        }
    }

    /// Collects rows into blocks that end with a row, but for rows that are longer than a block. The last bytes always wait,
    /// because the end mark may be among them.
    fn rows(&mut self, bytes: &[u8]) {
        if !self.wanted {
            return;
        }
        self.block.extend_from_slice(bytes);
        if self.block.len() < BLOCK {
            return;
        }
        let known = self.block.len() - END_MARK.len();
        let end = memchr::memrchr(b'\n', &self.block[..known]);
        let bytes = self.block.split_to(end.map_or(known, |end| end + 1)).freeze();
        self.order(Order::Rows { bytes, ends: end.is_some() });
        self.block.reserve(BLOCK);
    }

    fn end(&mut self) -> Result<(), Failure> {
        if self.wanted {
            let mut block = self.block.split();
            let Some(rows) = block.strip_suffix(END_MARK).map(<[u8]>::len) else {
                return Err(Failure::new(FailureKind::Integrity, "read the archive: a table's rows have no end mark"));
            };
            block.truncate(rows);
            if !block.is_empty() {
                self.order(Order::Rows { bytes: block.freeze(), ends: true });
            }
            self.order(Order::End);
        }
        self.wanted = false;
        Ok(())
    }
}

/// One connection at work on one table.
struct Lane {
    rows: mpsc::Sender<Bytes>,
    working: JoinHandle<Result<u64, PostgresError>>,
}

struct Loader {
    sessions: Vec<Arc<Session>>,
    events: Events,
    target: Target,
    /// Whether one connection takes all rows of the table and freezes them.
    freezing: bool,
    lanes: Vec<Lane>,
    turn: usize,
    /// Whether the last block ended in the middle of a row.
    amid: bool,
    bytes: u64,
    large_object: (u32, i64),
}

impl Loader {
    fn new(sessions: Vec<Session>, events: Events) -> Self {
        Self {
            sessions: sessions.into_iter().map(Arc::new).collect(),
            events,
            target: Target::default(),
            freezing: false,
            lanes: Vec::new(),
            turn: 0,
            amid: false,
            bytes: 0,
            large_object: (0, 0),
        }
    }

    async fn follow(&mut self, order: Order) -> Result<(), Failure> {
        match order {
            Order::Begin(target) => {
                self.target = target;
                Ok(())
            }
            Order::Rows { bytes, ends } => self.deal(bytes, ends).await,
            Order::End => self.end_table().await,
            Order::LargeObject(oid) => {
                self.large_object = (oid, 0);
                Ok(())
            }
            Order::LargeObjectData(bytes) => {
                let (oid, at) = self.large_object;
                self.large_object.1 += i64::try_from(bytes.len()).unwrap_or_default();
                Ok(large_objects::write(self.sessions[0].client(), oid, at, &bytes).await?)
            }
        }
    }

    /// Gives the block to the next connection, or to the one that has the beginning of its first row; a small table never
    /// wakes more than one.
    async fn deal(&mut self, rows: Bytes, ends: bool) -> Result<(), Failure> {
        self.bytes += rows.len() as u64;
        if std::mem::replace(&mut self.amid, !ends) {
            // The row goes on.
        } else if self.lanes.is_empty() {
            let made = self.target.made.take().filter(|_| rows.len() >= WORTH_FREEZING);
            let frozen = made.filter(|_| self.sessions.len() <= FREEZING_CONNECTIONS);
            let frozen = self.refillable(frozen).await?;
            self.freezing = frozen.is_some();
            self.begin_lane(frozen);
        } else if !self.freezing && self.lanes.len() < self.sessions.len() {
            self.begin_lane(None);
        } else {
            self.turn = (self.turn + 1) % self.lanes.len();
        }
        if self.lanes[self.turn].rows.send(rows).await.is_err() {
            // The lane has ended before its rows did: its result says why.
            return self.end_table().await;
        }
        pass(FailPoint::RestoreMidLoad)?;
        self.events.tell(Event::Progress { bytes: self.bytes, expected_bytes: None, rows: 0 });
        Ok(())
    }

    async fn refillable(&self, made: Option<QualifiedTable>) -> Result<Option<QualifiedTable>, Failure> {
        let Some(table) = made else { return Ok(None) };
        Ok(tables::is_refillable(self.sessions[0].client(), &table).await?.then_some(table))
    }

    fn begin_lane(&mut self, frozen: Option<QualifiedTable>) {
        let session = self.sessions[self.lanes.len()].clone();
        let (rows, waiting) = mpsc::channel::<Bytes>(WAITING);
        let statement = self.target.statement.clone();
        let working = tokio::spawn(async move {
            match frozen {
                None => copy_rows(&session, &statement, waiting).await,
                Some(table) => copy_frozen(&session, &statement, &table, waiting).await,
            }
        });
        self.lanes.push(Lane { rows, working });
        self.turn = self.lanes.len() - 1;
    }

    async fn end_table(&mut self) -> Result<(), Failure> {
        self.amid = false;
        let (working, ends): (Vec<_>, Vec<_>) = self.lanes.drain(..).map(|lane| (lane.working, lane.rows)).unzip();
        drop(ends);
        for lane in working {
            lane.await.map_err(|error| {
                Failure::new(FailureKind::Failed, "load rows: a connection's task ended badly").because(error)
            })??;
        }
        Ok(())
    }

    /// No lane is left, so nobody else holds a session.
    fn into_sessions(self) -> Vec<Session> {
        self.sessions.into_iter().filter_map(Arc::into_inner).collect()
    }
}

async fn copy_rows(
    session: &Session,
    statement: &str,
    mut waiting: mpsc::Receiver<Bytes>,
) -> Result<u64, PostgresError> {
    let mut sink = copy::copy_in(session, statement).await?;
    while let Some(rows) = waiting.recv().await {
        sink.write(rows).await?;
    }
    sink.finish().await
}

/// The same in one transaction that first truncates `table`, which is empty: only then the server takes frozen rows.
async fn copy_frozen(
    session: &Session,
    statement: &str,
    table: &QualifiedTable,
    waiting: mpsc::Receiver<Bytes>,
) -> Result<u64, PostgresError> {
    session.batch(&format!("BEGIN; TRUNCATE ONLY {}", table.quoted())).await?;
    let copied = copy_rows(session, &format!("{statement} WITH (FREEZE)"), waiting).await;
    session.settle(copied).await
}
