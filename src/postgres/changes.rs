//! Reading what changed since a parent's snapshot: a session on the coordinator's snapshot, and the COPY statements.
//!
//! One reading of a relation gives, for each row, the text of its key and, only when its xmin is one that the parent may
//! not have seen, the whole row, as the text of a record in one more column. Row and key text are those of a dump: the
//! settings of the session are (`copy::connect`), and a record prints its fields by the same output functions. Keys of
//! types whose text is known without the server come in binary, which costs the server a quarter less.

use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::TryStreamExt as _;
use tokio_postgres::CopyOutStream;

use crate::model::chain::Horizon;
use crate::model::copy_binary::{CopyReader, Malformed, next_field};
use crate::model::copy_text::{NULL, NotARecord, split_after, unescape};
use crate::model::key_text::KeyType;
use crate::model::table::{QualifiedTable, quote_identifier};
use crate::postgres::connection::{Connection, Session};
use crate::postgres::coordinator::{Coordinator, CoveredTable};
use crate::postgres::copy;
use crate::postgres::databases::literal;
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::tables::column_list;

/// A session that sees what the coordinator sees.
#[derive(Debug)]
pub struct SnapshotReader {
    session: Session,
    changed_age: i32,
}

impl SnapshotReader {
    /// Opens a session on the coordinator's snapshot. `parent` is what the parent had seen; nothing reads everything.
    pub async fn begin(
        connection: &Connection,
        coordinator: &Coordinator,
        parent: Option<Horizon>,
    ) -> Result<Self, PostgresError> {
        let session = copy::connect(connection, &coordinator.source_record().encoding).await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}; \
             SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = {}",
            literal(coordinator.snapshot()),
            // A lock that somebody asked for meanwhile queues between the coordinator's locks and ours; without a limit we
            // would wait for them, they for the coordinator, and the application for both.
            coordinator.lock_timeout().as_millis()
        );
        session.batch(&begin).await?;
        let changed_age = match parent {
            None => i32::MAX,
            Some(horizon) => {
                let xid = horizon.xid().to_string();
                let row = session.client().query_one(include_str!("../../sql/increment/age.sql"), &[&xid]).await?;
                row.get(0)
            }
        };
        Ok(Self { session, changed_age })
    }

    /// Keys of all rows of `covered` itself, each with the row's record when the parent may not have seen it.
    pub async fn changes(&self, covered: &CoveredTable) -> Result<Changes, PostgresError> {
        let CoveredTable { table, key, key_types, columns, .. } = covered;
        let statement = format!(
            "COPY (SELECT {}, CASE WHEN pg_catalog.age(t.xmin) <= {} THEN (ROW({}))::pg_catalog.text END FROM ONLY {} t) TO STDOUT",
            prefixed(key),
            self.changed_age,
            prefixed(columns),
            table.quoted()
        );
        Ok(Changes(match key_types {
            Some(types) => {
                let messages = self.session.client().copy_out(&format!("{statement} (FORMAT binary)")).await?;
                let (messages, types) = (Box::pin(messages), types.clone());
                Form::Binary { messages, reader: CopyReader::default(), types, key: Vec::new() }
            }
            None => Form::Text { lines: self.copy_out(&statement).await?, fields: key.len(), record: Vec::new() },
        }))
    }

    /// All rows of `table` itself.
    pub async fn rows(&self, table: &QualifiedTable, columns: &[String]) -> Result<CopyLines, PostgresError> {
        self.copy_out(&format!("COPY {} ({}) TO STDOUT", table.quoted(), column_list(columns))).await
    }

    /// Rows of `table` itself whose `column` has a time at or after `from`.
    pub async fn recent_rows(
        &self,
        table: &QualifiedTable,
        columns: &[String],
        column: &str,
        from: DateTime<Utc>,
    ) -> Result<CopyLines, PostgresError> {
        let (columns, column) = (prefixed(columns), quote_identifier(column));
        let (table, from) = (table.quoted(), literal(&from.format("%F %T%.6f+00").to_string()));
        self.copy_out(&format!("COPY (SELECT {columns} FROM ONLY {table} t WHERE t.{column} >= {from}) TO STDOUT"))
            .await
    }

    /// Keys of all rows of `table` itself.
    pub async fn keys(&self, table: &QualifiedTable, key: &[String]) -> Result<CopyLines, PostgresError> {
        self.copy_out(&format!("COPY (SELECT {} FROM ONLY {} t) TO STDOUT", prefixed(key), table.quoted())).await
    }

    async fn copy_out(&self, statement: &str) -> Result<CopyLines, PostgresError> {
        Ok(CopyLines(Box::pin(self.session.client().copy_out(statement).await?)))
    }

    /// Ends the transaction.
    pub async fn end(self) -> Result<(), PostgresError> {
        self.session.batch("COMMIT").await
    }
}

/// Blocks of the storage of `table`, quoted SQL.
pub async fn blocks(session: &Session, table: &str) -> Result<i64, PostgresError> {
    let row = session.client().query_one(include_str!("../../sql/table/blocks.sql"), &[&table]).await?;
    Ok(row.get(0))
}

/// Of the rows of `table` (quoted SQL) in some of its blocks: the key as PostgreSQL prints it as a record, then its columns.
pub async fn keys_of_blocks(
    session: &Session,
    table: &str,
    key: &[String],
    blocks: Range<i64>,
) -> Result<CopyLines, PostgresError> {
    let key = prefixed(key);
    let statement = format!(
        "COPY (SELECT (ROW({key}))::pg_catalog.text, {key} FROM ONLY {table} t \
         WHERE t.ctid >= '({},0)' AND t.ctid < '({},0)') TO STDOUT",
        blocks.start, blocks.end
    );
    Ok(CopyLines(Box::pin(session.client().copy_out(&statement).await?)))
}

/// Key and links of every row of the audit log, in the order of time: id, recorded_at, previous_hash, hash.
pub async fn audit_links(session: &Session) -> Result<CopyLines, PostgresError> {
    let statement =
        "COPY (SELECT id, recorded_at, previous_hash, hash FROM public.audit_logs ORDER BY recorded_at, id) TO STDOUT";
    Ok(CopyLines(Box::pin(session.client().copy_out(statement).await?)))
}

fn prefixed(columns: &[String]) -> String {
    columns.iter().map(|column| format!("t.{}", quote_identifier(column))).collect::<Vec<_>>().join(", ")
}

/// Keys and changed rows of a relation, as [`SnapshotReader::changes`] asked for them.
pub struct Changes(Form);

enum Form {
    /// Keys printed here.
    Binary { messages: Pin<Box<CopyOutStream>>, reader: CopyReader, types: Vec<KeyType>, key: Vec<u8> },
    /// Keys printed by the server.
    Text { lines: CopyLines, fields: usize, record: Vec<u8> },
}

impl Changes {
    /// Gives `each` the next rows: the key as COPY text and, of a changed row, the text of its record. False at the end.
    pub async fn next(
        &mut self,
        mut each: impl FnMut(&[u8], Option<&[u8]>) -> Result<(), NotARecord>,
    ) -> Result<bool, PostgresError> {
        match &mut self.0 {
            Form::Binary { messages, reader, types, key } => {
                let Some(message) = messages.try_next().await? else {
                    reader.finish()?;
                    return Ok(false);
                };
                let fields = u16::try_from(types.len() + 1).map_err(|_| NotARecord)?;
                reader.take(&message, fields, |mut rest| {
                    print_key(&mut rest, types, key)?;
                    Ok::<_, PostgresError>(each(key, next_field(&mut rest)?)?)
                })?;
            }
            Form::Text { lines, fields, record } => {
                let Some(line) = lines.next().await? else { return Ok(false) };
                let (key, escaped) = split_after(&line[..line.len() - 1], *fields).ok_or(NotARecord)?;
                if escaped == NULL {
                    each(key, None)?;
                } else {
                    record.clear();
                    unescape(escaped, record)?;
                    each(key, Some(record))?;
                }
            }
        }
        Ok(true)
    }
}

/// Takes the key's fields off `rest` and leaves in `key` what COPY writes of them.
fn print_key(rest: &mut &[u8], types: &[KeyType], key: &mut Vec<u8>) -> Result<(), Malformed> {
    key.clear();
    for (at, kind) in types.iter().enumerate() {
        if at > 0 {
            key.push(b'\t');
        }
        kind.append(next_field(rest)?.ok_or(Malformed("a key is NULL"))?, key)?;
    }
    Ok(())
}

/// Lines of COPY text. The server sends one message a row (PostgreSQL manual, "COPY Operations").
pub struct CopyLines(Pin<Box<CopyOutStream>>);

impl CopyLines {
    /// The next line, its end included.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PostgresError> {
        let line = self.0.try_next().await?;
        match &line {
            Some(line) if line.last() != Some(&b'\n') => {
                Err(PostgresError::new(PostgresErrorKind::Other, "read rows: the server cut a row into messages"))
            }
            _ => Ok(line),
        }
    }
}
