//! Reads log and side table once, side by side, on one snapshot: every row's content hashed as it streams, rows linked,
//! both tallied under one secret.
//!
//! A worker takes one partition after the other; the side table is one more piece of work and the first, because it is
//! the longest. Memory is that of the workers' linkers and tallies, whatever the number of rows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use crate::model::audit::link::{Linked, Linker, Segment};
use crate::model::audit::row::{Link, RowFacts, RowKey};
use crate::model::audit::tally::{Places, Tally};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::postgres::audit::{ChainSnapshot, Reader};

/// Segments that may wait in one worker, about 250 bytes each.
const PARKED_BY_WORKER: usize = 60_000;
/// Segments that may wait when what the workers found is joined.
const PARKED_IN_ALL: usize = 120_000;
/// Rows with unsound content that are named; the earliest.
const UNSOUND_KEPT: usize = 1000;

/// A row whose hash is not that of its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unsound {
    pub stored: Link,
    pub computed: Digest,
    /// The partition it lies in, by its place in the reading.
    pub partition: usize,
}

/// What rows came to, of one partition or of all.
#[derive(Debug)]
pub(super) struct Rows {
    pub tally: Tally,
    pub unsound_count: u64,
    pub unsound: BTreeMap<RowKey, Unsound>,
}

impl Rows {
    fn new(secret: [u8; 16]) -> Self {
        Self { tally: Tally::new(secret), unsound_count: 0, unsound: BTreeMap::new() }
    }

    pub(super) fn add(&mut self, row: &RowFacts, partition: usize) {
        self.tally.add(row);
        if !row.is_sound() {
            self.unsound_count += 1;
            self.keep(row.key, Unsound { stored: row.stored, computed: row.computed, partition });
        }
    }

    fn keep(&mut self, key: RowKey, unsound: Unsound) {
        self.unsound.insert(key, unsound);
        if self.unsound.len() > UNSOUND_KEPT {
            self.unsound.pop_last();
        }
    }

    fn merge(&mut self, other: Self) {
        self.tally.merge(&other.tally);
        self.unsound_count += other.unsound_count;
        other.unsound.into_iter().for_each(|(key, unsound)| self.keep(key, unsound));
    }
}

/// Everything read.
#[derive(Debug)]
pub(super) struct Reading {
    pub rows: Rows,
    pub linked: Linked,
    pub places: Places,
    /// Rows by partition, in the order of the sources.
    pub by_source: Vec<u64>,
}

/// Where rows come from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// All of a partition.
    Partition(QualifiedTable),
    /// Those that have a place after this one.
    After(i64),
}

enum Work {
    Places(Box<Places>),
    Rows(usize, Source),
}

enum Done {
    Places(Box<Places>),
    Rows(usize, Rows, Linked),
}

/// Reads `sources` and `places` with `workers` sessions. `known` are stretches that need not be read: sealed or verified.
pub(super) async fn read(
    snapshot: &ChainSnapshot,
    sources: &[Source],
    places: Places,
    known: &[Segment],
    workers: usize,
    setting: &Setting,
) -> Result<Reading, Failure> {
    let secret = places.tally.secret();
    let rows = sources.iter().cloned().enumerate().map(|(at, source)| Work::Rows(at, source));
    let queue: VecDeque<Work> = std::iter::once(Work::Places(Box::new(places))).chain(rows).collect();
    let workers = workers.clamp(1, queue.len());
    let queue = Arc::new(Mutex::new(queue));
    let mut working = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let reader = snapshot.reader().await?;
        working.spawn(work(reader, queue.clone(), secret, setting.clone()));
    }
    let mut gathered = Gathered::new(secret, sources.len(), known);
    while let Some(done) = working.join_next().await {
        let ended_badly = |error| Failure::new(FailureKind::Failed, "read the audit log").because(error);
        done.map_err(ended_badly)??.into_iter().for_each(|done| gathered.take(done));
    }
    gathered.finish()
}

async fn work(
    reader: Reader,
    queue: Arc<Mutex<VecDeque<Work>>>,
    secret: [u8; 16],
    setting: Setting,
) -> Result<Vec<Done>, Failure> {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let mut done = Vec::new();
    while let Some(work) = next() {
        setting.require_going_on("go on verifying")?;
        done.push(match work {
            Work::Places(mut places) => {
                reader.places(&mut places).await?;
                Done::Places(places)
            }
            Work::Rows(at, source) => {
                let (mut rows, mut linker) = (Rows::new(secret), Linker::new(PARKED_BY_WORKER));
                let each = |row: RowFacts| {
                    rows.add(&row, at);
                    linker.add(&row);
                };
                match &source {
                    Source::Partition(table) => reader.rows(table, each).await?,
                    Source::After(seq) => reader.rows_after(*seq, each).await?,
                }
                Done::Rows(at, rows, linker.finish())
            }
        });
    }
    reader.end().await?;
    Ok(done)
}

/// What the workers found, put together.
struct Gathered {
    rows: Rows,
    by_source: Vec<u64>,
    linker: Linker,
    linked: Linked,
    places: Option<Places>,
}

impl Gathered {
    fn new(secret: [u8; 16], sources: usize, known: &[Segment]) -> Self {
        let mut linker = Linker::new(PARKED_IN_ALL);
        known.iter().for_each(|segment| linker.add_segment(*segment));
        let (rows, linked) = (Rows::new(secret), Linked::default());
        Self { rows, by_source: vec![0; sources], linker, linked, places: None }
    }

    fn take(&mut self, done: Done) {
        match done {
            Done::Places(places) => self.places = Some(*places),
            Done::Rows(at, rows, linked) => {
                self.by_source[at] = rows.tally.rows;
                self.rows.merge(rows);
                linked.segments.into_iter().for_each(|segment| self.linker.add_segment(segment));
                self.linked.collided |= linked.collided;
                self.linked.given_up |= linked.given_up;
            }
        }
    }

    fn finish(self) -> Result<Reading, Failure> {
        let Self { rows, by_source, linker, linked: within, places } = self;
        let Some(places) = places else {
            return Err(Failure::new(FailureKind::Failed, "read the audit log: the side table was not read"));
        };
        let mut linked = linker.finish();
        linked.collided |= within.collided;
        linked.given_up |= within.given_up;
        Ok(Reading { rows, linked, places, by_source })
    }
}
