//! One relation: read, judged against the parent, and what of it goes into the increment.

use std::sync::atomic::{AtomicU64, Ordering};

use chrono::TimeDelta;

use crate::model::buckets::{KeySums, Marked, bucket_counts};
use crate::model::copy_text::{key_of, row_of_record};
use crate::model::digest::{Digest, TableSum};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{ChangeRecord, KeyRecord, LogStretch, Since, TableRecord, Whole};
use crate::ops::increment::parent::Parent;
use crate::ops::increment::writer::Writer;
use crate::pipeline::tar::Content;
use crate::postgres::CoveredTable;
use crate::postgres::changes::SnapshotReader;

/// Most buckets of a relation that the parent did not have; the next full dump gives it what it needs.
const MOST_NEW_BUCKETS: u32 = 1024;

/// How long before its parent a reading by time begins: transactions that were open for no longer are in it.
const OVERLAP: TimeDelta = TimeDelta::hours(1);

/// Rows counted at once, so that counting costs nothing.
const COUNTED: u64 = 1024;

/// What was found in one relation.
pub(super) struct Found {
    change: ChangeRecord,
    /// The key and what all keys add up to.
    keys: Option<(Vec<String>, KeySums)>,
}

impl Found {
    /// Writes what was found into the manifest's record of the relation.
    pub(super) fn record(&self, record: &mut TableRecord, parent: Option<&TableRecord>) {
        let change = &self.change;
        let untouched = change.stored.rows == 0 && change.marked.is_none() && change.since.is_none();
        record.content = match change.whole {
            Some(_) => Some(change.stored),
            // Not one row came, went or changed: what the parent knows still holds.
            None if untouched => parent.and_then(|parent| parent.content),
            None => None,
        };
        record.change = Some(change.clone());
    }

    /// The key's columns and what its keys add up to.
    pub(super) fn into_key_sums(self) -> Option<(Vec<String>, KeySums)> {
        self.keys
    }
}

/// One relation being read.
pub(super) struct RelationReading<'a> {
    pub(super) covered: &'a CoveredTable,
    pub(super) parent: &'a Parent,
    pub(super) reader: &'a SnapshotReader,
    pub(super) writer: &'a Writer,
    /// The column that says when a row changed, where the job need not be exact.
    pub(super) changed_at: Option<&'a str>,
    /// The stretch of the log that proves that nobody wrote to it.
    pub(super) untouched: Option<LogStretch>,
    /// Rows read so far, over all relations.
    pub(super) rows: &'a AtomicU64,
}

impl RelationReading<'_> {
    /// Reads the relation and sends what has to be kept.
    pub(super) async fn run(&self) -> Result<Found, Failure> {
        let recorded = self.parent.record(self.covered.oid);
        if let Some(found) = self.keyless_untouched(recorded) {
            return Ok(found);
        }
        let (known, whole) = match recorded {
            _ if self.covered.key.is_empty() => (None, Whole::NoKey),
            None => (None, Whole::NewRelation),
            Some(record) => (self.same_key(record), Whole::OtherForm),
        };
        if let (Some(column), Some(_)) = (self.changed_at, recorded.filter(|record| self.same_columns(record))) {
            return self.recent(column).await;
        }
        let Some(key) = known else { return self.whole(whole).await };
        let parent = self.parent.sums(key).await?;
        match self.untouched {
            Some(stretch) => Ok(self.unread(stretch, parent)),
            None => self.changes(&parent).await,
        }
    }

    /// The relation as its parent has it, when it has no key and the log proves that nobody wrote to it.
    fn keyless_untouched(&self, recorded: Option<&TableRecord>) -> Option<Found> {
        let record = recorded.filter(|record| record.key.is_none() && self.same_columns(record))?;
        let (rows, stretch) = (record.content?.rows, self.untouched?);
        let change = ChangeRecord { rows, untouched: Some(stretch), ..ChangeRecord::of(TableSum::default()) };
        self.covered.key.is_empty().then_some(Found { change, keys: None })
    }

    /// The relation as its parent has it.
    fn unread(&self, stretch: LogStretch, parent: KeySums) -> Found {
        let rows = parent.keys();
        let change = ChangeRecord { rows, untouched: Some(stretch), ..ChangeRecord::of(TableSum::default()) };
        Found { change, keys: Some((self.covered.key.clone(), parent)) }
    }

    /// The parent's key, if rows and keys still have the form that it recorded.
    fn same_key<'b>(&self, record: &'b TableRecord) -> Option<&'b KeyRecord> {
        record.key.as_ref().filter(|key| key.columns == self.covered.key && self.same_columns(record))
    }

    fn same_columns(&self, record: &TableRecord) -> bool {
        record.columns == self.covered.columns
    }

    /// Reads only rows whose `column` has a recent time, as the job allows: what was deleted stays.
    async fn recent(&self, column: &str) -> Result<Found, Failure> {
        let CoveredTable { table, key, columns, .. } = self.covered;
        let from = self.parent.as_of() - OVERLAP;
        let mut stored = TableSum::default();
        let mut member = self.writer.member(table, Content::Rows);
        let mut lines = self.reader.recent_rows(table, columns, column, from).await?;
        let mut counter = Counter::new(self.rows);
        while let Some(line) = lines.next().await? {
            counter.count();
            stored.add_row(&line[..line.len() - 1]);
            member.line().extend_from_slice(&line);
            member.flush_if_full().await?;
        }
        member.flush().await?;
        let since = Some(Since { column: column.to_owned(), from, key: key.clone() });
        Ok(Found { change: ChangeRecord { since, ..ChangeRecord::of(stored) }, keys: None })
    }

    async fn changes(&self, parent: &KeySums) -> Result<Found, Failure> {
        let CoveredTable { table, key, .. } = self.covered;
        let (mut unchanged, mut changed) = (KeySums::new(parent.buckets()), KeySums::new(parent.buckets()));
        let mut stored = TableSum::default();
        let mut member = self.writer.member(table, Content::Rows);
        let mut rows = self.reader.changes(self.covered).await?;
        let mut counter = Counter::new(self.rows);
        let mut take = |key: &[u8], record: Option<&[u8]>, buffer: &mut Vec<u8>| {
            counter.count();
            let digest = Digest::of(key);
            let Some(record) = record else {
                unchanged.add(&digest);
                return Ok(());
            };
            changed.add(&digest);
            let start = buffer.len();
            row_of_record(record, buffer)?;
            stored.add_row(&buffer[start..]);
            buffer.push(b'\n');
            Ok(())
        };
        while rows.next(|key, record| take(key, record, member.line())).await? {
            member.flush_if_full().await?;
        }
        member.flush().await?;
        let Ok(marked) = parent.marked(&unchanged, &changed) else {
            return self.whole(Whole::Contradiction).await;
        };
        let marked = (!marked.is_empty()).then_some(marked);
        if let Some(marked) = &marked {
            self.keys(marked, parent).await?;
        }
        let rows = unchanged.keys() + changed.keys();
        unchanged.merge(&changed);
        let change = ChangeRecord { rows, marked, ..ChangeRecord::of(stored) };
        Ok(Found { change, keys: Some((key.clone(), unchanged)) })
    }

    /// Sends the keys that are there in the marked buckets.
    async fn keys(&self, marked: &Marked, sums: &KeySums) -> Result<(), Failure> {
        let CoveredTable { table, key, .. } = self.covered;
        let mut member = self.writer.member(table, Content::Keys);
        let mut lines = self.reader.keys(table, key).await?;
        let mut counter = Counter::new(self.rows);
        while let Some(line) = lines.next().await? {
            counter.count();
            if marked.has(sums.bucket_of(&Digest::of(&line[..line.len() - 1]))) {
                member.line().extend_from_slice(&line);
                member.flush_if_full().await?;
            }
        }
        member.flush().await
    }

    /// Sends all rows.
    async fn whole(&self, why: Whole) -> Result<Found, Failure> {
        let CoveredTable { table, key, columns, .. } = self.covered;
        let buckets = bucket_counts(&[self.covered.guessed_rows()]).first().copied().unwrap_or(1);
        let mut sums = (!key.is_empty()).then(|| KeySums::new(buckets.min(MOST_NEW_BUCKETS)));
        let positions = self.covered.key_positions();
        let (mut stored, mut scratch) = (TableSum::default(), Vec::new());
        let mut member = self.writer.member(table, Content::Rows);
        let mut lines = self.reader.rows(table, columns).await?;
        let mut counter = Counter::new(self.rows);
        while let Some(line) = lines.next().await? {
            counter.count();
            let row = &line[..line.len() - 1];
            stored.add_row(row);
            if let Some(sums) = &mut sums {
                let key = key_of(row, &positions, &mut scratch).ok_or_else(|| self.odd_line())?;
                sums.add(&Digest::of(key));
            }
            member.line().extend_from_slice(&line);
            member.flush_if_full().await?;
        }
        member.flush().await?;
        let change = ChangeRecord { whole: Some(why), ..ChangeRecord::of(stored) };
        Ok(Found { change, keys: sums.map(|sums| (key.clone(), sums)) })
    }

    fn odd_line(&self) -> Failure {
        Failure::new(FailureKind::Failed, format!("read the rows of {}: they have another form", self.covered.table))
    }
}

/// Adds rows to the common count, many at a time.
struct Counter<'a> {
    all: &'a AtomicU64,
    rows: u64,
}

impl<'a> Counter<'a> {
    fn new(all: &'a AtomicU64) -> Self {
        Self { all, rows: 0 }
    }

    fn count(&mut self) {
        self.rows += 1;
        if self.rows == COUNTED {
            self.all.fetch_add(self.rows, Ordering::Relaxed);
            self.rows = 0;
        }
    }
}

impl Drop for Counter<'_> {
    fn drop(&mut self) {
        self.all.fetch_add(self.rows + 1, Ordering::Relaxed);
    }
}
