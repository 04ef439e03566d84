//! COPY in both directions, with the settings under which row text is the same on every server.
//!
//! The settings are those pg_dump uses (PostgreSQL, src/bin/pg_dump/pg_dump.c, setup_connection), so that a row read here
//! has the bytes it has in a dump.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, TryStreamExt as _};
use tokio_postgres::CopyInSink;

use crate::host::{FailPoint, reach};
use crate::model::buckets::KeySums;
use crate::model::copy_text::key_of;
use crate::model::digest::{Digest, TableSum};
use crate::model::table::QualifiedTable;
use crate::postgres::connection::{Connection, Session};
use crate::postgres::databases::literal;
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::tables::column_list;

/// A session whose COPY text is that of a dump in `encoding`.
pub async fn connect(connection: &Connection, encoding: &str) -> Result<Session, PostgresError> {
    let session = connection.connect().await?;
    let settings = format!(
        "SET client_encoding = {}; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3; \
         SET bytea_output = 'hex'; SET timezone = 'UTC'; SET lc_monetary = 'C'; SET row_security = off; SET jit = off; \
         SET statement_timeout = 0; SET lock_timeout = 0; SET synchronous_commit = off",
        literal(encoding)
    );
    session.client().batch_execute(&settings).await?;
    Ok(session)
}

/// What the rows of `table` itself add up to, reading `columns`. Partitions of it are not its own rows.
pub async fn sum_table(
    session: &Session,
    table: &QualifiedTable,
    columns: &[String],
) -> Result<TableSum, PostgresError> {
    sum(session, &format!("COPY {} ({}) TO STDOUT", table.quoted(), column_list(columns))).await
}

/// Keys on their way into sums: where they stand among the columns that are read.
#[derive(Clone, Debug)]
pub struct KeyTally {
    /// Places of the key's columns, in the key's order.
    pub positions: Vec<usize>,
    /// What they add up to so far.
    pub sums: KeySums,
}

/// What the rows of `table` itself in `blocks` (all of it when absent) add up to, reading `columns`; their keys are added
/// to `keys`. An end beyond the last block number there can be (2^32 - 2) means to the end.
pub async fn sum_blocks(
    session: &Session,
    table: &QualifiedTable,
    columns: &[String],
    blocks: Option<Range<i64>>,
    keys: Option<&mut KeyTally>,
) -> Result<TableSum, PostgresError> {
    let (columns, table) = (column_list(columns), table.quoted());
    let statement = match blocks {
        None => format!("COPY {table} ({columns}) TO STDOUT"),
        Some(Range { start, end }) => {
            let end = match u32::try_from(end) {
                Ok(end) => format!(" AND ctid < '({end},0)'"),
                Err(_) => String::new(),
            };
            format!("COPY (SELECT {columns} FROM ONLY {table} WHERE ctid >= '({start},0)'{end}) TO STDOUT")
        }
    };
    sum_with_keys(session, &statement, keys).await
}

/// What the rows of `table` and of everything below it add up to, reading `columns`.
pub async fn sum_tree(
    session: &Session,
    table: &QualifiedTable,
    columns: &[String],
) -> Result<TableSum, PostgresError> {
    sum(session, &format!("COPY (SELECT {} FROM {}) TO STDOUT", column_list(columns), table.quoted())).await
}

/// What the rows that the COPY `statement` gives add up to. The server sends one message a row (PostgreSQL manual, "COPY
/// Operations").
pub async fn sum(session: &Session, statement: &str) -> Result<TableSum, PostgresError> {
    sum_with_keys(session, statement, None).await
}

/// Bytes of rows that are sent in one go.
const BLOCK: usize = 256 << 10;

/// Carries the rows that the COPY statement of `from` gives into that of `into`, and gives what they add up to; `told` hears
/// how far it is. Memory: one block and the longest row.
pub async fn carry(
    from: (&Session, &str),
    into: (&Session, &str),
    told: &(dyn Fn(&TableSum) + Send + Sync),
) -> Result<TableSum, PostgresError> {
    let rows = from.0.client().copy_out(from.1).await?;
    let mut rows = std::pin::pin!(rows);
    let mut sink = copy_in(into.0, into.1).await?;
    let (mut sum, mut block) = (TableSum::default(), BytesMut::new());
    while let Some(row) = rows.try_next().await? {
        sum.add_row(row.strip_suffix(b"\n").unwrap_or(&row));
        block.extend_from_slice(&row);
        if block.len() >= BLOCK {
            sink.write(block.split().freeze()).await?;
            let broken = |error| PostgresError::new(PostgresErrorKind::Other, "carry rows").because(error);
            reach(FailPoint::RestoreMidLoad).map_err(broken)?;
            told(&sum);
        }
    }
    sink.write(block.freeze()).await?;
    sink.finish().await?;
    Ok(sum)
}

async fn sum_with_keys(
    session: &Session,
    statement: &str,
    mut keys: Option<&mut KeyTally>,
) -> Result<TableSum, PostgresError> {
    let rows = session.client().copy_out(statement).await?;
    let mut rows = std::pin::pin!(rows);
    let (mut sum, mut scratch) = (TableSum::default(), Vec::new());
    while let Some(row) = rows.try_next().await? {
        let row = row.strip_suffix(b"\n").unwrap_or(&row);
        sum.add_row(row);
        if let Some(keys) = keys.as_deref_mut()
            && let Some(key) = key_of(row, &keys.positions, &mut scratch)
        {
            keys.sums.add(&Digest::of(key));
        }
    }
    Ok(sum)
}

/// Rows on their way into a table. Dropping it ends the COPY without keeping any.
pub struct CopySink(std::pin::Pin<Box<CopyInSink<Bytes>>>);

/// Begins the COPY `statement`.
pub async fn copy_in(session: &Session, statement: &str) -> Result<CopySink, PostgresError> {
    Ok(CopySink(Box::pin(session.client().copy_in(statement).await?)))
}

impl CopySink {
    /// Sends COPY text, cut anywhere.
    pub async fn write(&mut self, rows: Bytes) -> Result<(), PostgresError> {
        Ok(self.0.send(rows).await?)
    }

    /// Ends the COPY and gives the number of rows it kept.
    pub async fn finish(mut self) -> Result<u64, PostgresError> {
        Ok(self.0.as_mut().finish().await?)
    }
}
