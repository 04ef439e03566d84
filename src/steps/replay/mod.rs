//! Puts increments onto tables, each in one transaction: keys that are gone and changed rows out, changed rows in.
//!
//! The tables must have no trigger, foreign key or unique index yet, so that the order of rows does not matter. Which keys
//! fall into a marked bucket is computed here, never in SQL: the keys of the table stream by, some blocks at a time, and those of marked
//! buckets go into a temporary table. Keys are compared as PostgreSQL prints them, which needs no operator of any type.
//! What is taken out is summed on its way, so that the end result is proven against sums of the source.

mod members;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::host::Source;
use crate::model::buckets::KeySums;
use crate::model::copy_text::split_after;
use crate::model::digest::{Digest, TableSum};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{ChangeRecord, Manifest, TableRecord};
use crate::model::table::{QualifiedTable, quote_identifier};
use crate::pipeline::tar::Content;
use crate::postgres::copy::{self, CopySink};
use crate::postgres::tables::column_list;
use crate::postgres::{Session, changes};

use members::Piece;

/// Blocks whose keys are looked at between two writings; bounds what is held.
const BLOCKS_AT_ONCE: i64 = 1024;

/// Where the rows of one relation go.
#[derive(Clone, Debug)]
pub struct Place {
    /// The table, as quoted SQL.
    pub table: String,
    /// The place in the chain of the artifact that holds all its rows.
    pub origin: usize,
    /// What its rows add up to so far.
    pub sum: TableSum,
}

/// Increments on their way onto tables, by relation oid.
pub struct Replay<'a> {
    session: &'a Session,
    places: BTreeMap<u32, Place>,
}

impl<'a> Replay<'a> {
    /// Puts increments onto `places`, which hold the rows of the full dump where that is their origin, and are empty
    /// otherwise.
    pub fn new(session: &'a Session, places: BTreeMap<u32, Place>) -> Self {
        Self { session, places }
    }

    /// Puts one increment onto the tables: the one at `at` in the chain, whose archive `source` gives.
    pub async fn apply(&mut self, at: usize, manifest: &Manifest, source: Box<dyn Source>) -> Result<(), Failure> {
        let wanted: Vec<(&TableRecord, &ChangeRecord)> = manifest
            .tables
            .iter()
            .filter(|record| self.places.get(&record.oid).is_some_and(|place| place.origin <= at))
            .filter_map(|record| Some((record, record.change.as_ref()?)))
            .collect();
        self.session.batch("BEGIN").await?;
        for (record, change) in &wanted {
            self.stage(record, change).await?;
        }
        self.load(&wanted, source).await?;
        for (record, change) in &wanted {
            self.settle(record, change).await?;
        }
        self.session.batch("COMMIT").await.map_err(Failure::from)
    }

    /// What every relation's rows must add up to now.
    pub fn sums(&self) -> BTreeMap<u32, TableSum> {
        self.places.iter().map(|(oid, place)| (*oid, place.sum)).collect()
    }

    fn place(&self, record: &TableRecord) -> Result<&Place, Failure> {
        self.places.get(&record.oid).ok_or_else(|| {
            Failure::new(FailureKind::Failed, format!("put rows onto {}: nobody wants them", record.table))
        })
    }

    /// Makes the temporary tables for one relation.
    async fn stage(&self, record: &TableRecord, change: &ChangeRecord) -> Result<(), Failure> {
        if change.whole.is_some() {
            return Ok(());
        }
        let table = &self.place(record)?.table;
        let mut statements = Vec::new();
        let like = |name: String, columns: &[String]| {
            let columns = column_list(columns);
            format!("CREATE TEMPORARY TABLE {name} ON COMMIT DROP AS SELECT {columns} FROM ONLY {table} WITH NO DATA")
        };
        if change.stored.rows > 0 {
            statements.push(like(rows_of(record), &record.columns));
        }
        if change.marked.is_some() {
            statements.push(like(keys_of(record), key_columns(record)?));
            let gone = gone_of(record);
            statements.push(format!("CREATE TEMPORARY TABLE {gone} (key pg_catalog.text) ON COMMIT DROP"));
        }
        if statements.is_empty() {
            return Ok(());
        }
        Ok(self.session.batch(&statements.join("; ")).await?)
    }

    /// Reads the archive to its end; rows go into their tables, or beside them first.
    async fn load(&self, wanted: &[(&TableRecord, &ChangeRecord)], source: Box<dyn Source>) -> Result<(), Failure> {
        let by_name: BTreeMap<&QualifiedTable, (&TableRecord, &ChangeRecord)> =
            wanted.iter().map(|(record, change)| (&record.table, (*record, *change))).collect();
        let names: BTreeSet<QualifiedTable> = by_name.keys().map(|table| (*table).clone()).collect();
        let (sender, mut pieces) = mpsc::channel(members::WAITING);
        let reading = tokio::task::spawn_blocking(move || members::read(source, &names, &sender));
        let mut loading = Loading { session: self.session, sink: None, rows: BTreeMap::new() };
        let loaded = async {
            while let Some(piece) = pieces.recv().await {
                match piece {
                    Piece::Begin(table, content) => {
                        let Some((record, change)) = by_name.get(&table) else { continue };
                        loading.begin(record, content, self.statement(record, change, content)?).await?;
                    }
                    Piece::Bytes(bytes) => loading.write(bytes).await?,
                }
            }
            loading.end().await
        };
        let loaded = loaded.await;
        drop(pieces);
        let read = reading.await.map_err(|error| {
            Failure::new(FailureKind::Failed, "read the increment: its thread ended badly").because(error)
        })?;
        loaded?;
        read?;
        for (record, change) in wanted {
            let rows = loading.rows.get(&record.oid).copied().unwrap_or_default();
            if rows != change.stored.rows {
                return Err(does_not_fit(record, format!("{rows} rows came where {} were stored", change.stored.rows)));
            }
        }
        Ok(())
    }

    fn statement(&self, record: &TableRecord, change: &ChangeRecord, content: Content) -> Result<String, Failure> {
        let (table, columns) = match content {
            Content::Keys => (keys_of(record), column_list(key_columns(record)?)),
            Content::Rows if change.whole.is_some() => {
                (self.place(record)?.table.clone(), column_list(&record.columns))
            }
            Content::Rows => (rows_of(record), column_list(&record.columns)),
        };
        Ok(format!("COPY {table} ({columns}) FROM STDIN"))
    }

    /// Takes out what is gone or changed, puts in what changed, and keeps the account.
    async fn settle(&mut self, record: &TableRecord, change: &ChangeRecord) -> Result<(), Failure> {
        if change.whole.is_none() {
            if change.marked.is_some() {
                self.collect_gone(record, change).await?;
            }
            let out = self.take_out(record, change).await?;
            self.put_in(record, change).await?;
            let place = self.places.get_mut(&record.oid);
            if let Some(place) = place {
                place.sum.take_away(&out);
                place.sum.merge(&change.stored);
            }
        }
        let rows = self.place(record)?.sum.rows;
        if rows != change.rows && change.since.is_none() {
            return Err(does_not_fit(
                record,
                format!("it has {rows} rows afterwards where the source had {}", change.rows),
            ));
        }
        Ok(())
    }

    /// Puts the keys of the table that fall into marked buckets into a temporary table.
    async fn collect_gone(&self, record: &TableRecord, change: &ChangeRecord) -> Result<(), Failure> {
        let (Some(key), Some(marked)) = (&record.key, &change.marked) else {
            return Err(does_not_fit(record, "it marks keys of a table without a key".to_owned()));
        };
        let sums = KeySums::new(key.buckets);
        let table = &self.place(record)?.table;
        let blocks = changes::blocks(self.session, table).await?;
        for from in (0..blocks).step_by(usize::try_from(BLOCKS_AT_ONCE).unwrap_or(1)) {
            let mut found = Vec::new();
            let mut lines =
                changes::keys_of_blocks(self.session, table, &key.columns, from..from + BLOCKS_AT_ONCE).await?;
            while let Some(line) = lines.next().await? {
                let Some((printed, key)) = split_after(&line[..line.len() - 1], 1) else { continue };
                if marked.has(sums.bucket_of(&Digest::of(key))) {
                    found.extend_from_slice(printed);
                    found.push(b'\n');
                }
            }
            drop(lines);
            let mut sink = copy::copy_in(self.session, &format!("COPY {} (key) FROM STDIN", gone_of(record))).await?;
            sink.write(found.into()).await?;
            sink.finish().await?;
        }
        Ok(())
    }

    /// Deletes, and gives what was deleted.
    async fn take_out(&self, record: &TableRecord, change: &ChangeRecord) -> Result<TableSum, Failure> {
        let mut which = Vec::new();
        let since = change.since.as_ref().map(|since| since.key.as_slice());
        let key = record.key.as_ref().map(|key| key.columns.as_slice()).or(since).unwrap_or_default();
        if change.marked.is_some() {
            let (gone, there) = (gone_of(record), keys_of(record));
            which.push(format!("(SELECT key FROM {gone} EXCEPT SELECT {} FROM {there} s)", printed(key, "s")));
        }
        if change.stored.rows > 0 {
            which.push(format!("SELECT {} FROM {} s", printed(key, "s"), rows_of(record)));
        }
        if which.is_empty() {
            return Ok(TableSum::default());
        }
        let statement = format!(
            "COPY (DELETE FROM ONLY {} t USING ({}) g (key) WHERE {} = g.key RETURNING {}) TO STDOUT",
            self.place(record)?.table,
            which.join(" UNION "),
            printed(key, "t"),
            prefixed(&record.columns, "t"),
        );
        Ok(copy::sum(self.session, &statement).await?)
    }

    async fn put_in(&self, record: &TableRecord, change: &ChangeRecord) -> Result<(), Failure> {
        if change.stored.rows == 0 {
            return Ok(());
        }
        let columns = column_list(&record.columns);
        let statement = format!(
            "INSERT INTO {} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {}",
            self.place(record)?.table,
            rows_of(record)
        );
        Ok(self.session.batch(&statement).await?)
    }
}

/// COPY of one table after the other.
struct Loading<'a> {
    session: &'a Session,
    sink: Option<(u32, Content, CopySink)>,
    rows: BTreeMap<u32, u64>,
}

impl Loading<'_> {
    /// Members of the same table go on with the same COPY: a long row may be cut between them.
    async fn begin(&mut self, record: &TableRecord, content: Content, statement: String) -> Result<(), Failure> {
        if matches!(&self.sink, Some((oid, same, _)) if (*oid, *same) == (record.oid, content)) {
            return Ok(());
        }
        self.end().await?;
        self.sink = Some((record.oid, content, copy::copy_in(self.session, &statement).await?));
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), Failure> {
        match &mut self.sink {
            Some((.., sink)) => Ok(sink.write(bytes).await?),
            None => Err(Failure::new(FailureKind::Integrity, "read the increment: rows belong to no table")),
        }
    }

    async fn end(&mut self) -> Result<(), Failure> {
        if let Some((oid, content, sink)) = self.sink.take() {
            let rows = sink.finish().await?;
            if content == Content::Rows {
                *self.rows.entry(oid).or_default() += rows;
            }
        }
        Ok(())
    }
}

fn does_not_fit(record: &TableRecord, what: String) -> Failure {
    Failure::new(FailureKind::Integrity, format!("put the increment onto {}: {what}", record.table))
        .hint("Do not use what was restored; restore an earlier backup with --until, and report this.")
}

fn key_columns(record: &TableRecord) -> Result<&[String], Failure> {
    match &record.key {
        Some(key) => Ok(&key.columns),
        None => Err(does_not_fit(record, "it has keys of a table without a key".to_owned())),
    }
}

fn rows_of(record: &TableRecord) -> String {
    format!("pg_temp.dbagent_rows_{}", record.oid)
}

fn keys_of(record: &TableRecord) -> String {
    format!("pg_temp.dbagent_keys_{}", record.oid)
}

fn gone_of(record: &TableRecord) -> String {
    format!("pg_temp.dbagent_gone_{}", record.oid)
}

/// A key as PostgreSQL prints it, as an SQL expression.
fn printed(key: &[String], alias: &str) -> String {
    format!("((ROW({}))::pg_catalog.text COLLATE \"C\")", prefixed(key, alias))
}

fn prefixed(columns: &[String], alias: &str) -> String {
    columns.iter().map(|column| format!("{alias}.{}", quote_identifier(column))).collect::<Vec<_>>().join(", ")
}
