//! A table on a server that has the cluster as it was: found, read once, and added up on its way into the live database.

use crate::model::digest::TableSum;
use crate::model::event::Event;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::SequenceRecord;
use crate::model::table::{QualifiedTable, TableName};
use crate::ops::Setting;
use crate::ops::restore::Doors;
use crate::ops::restore::properties::output;
use crate::ops::restore::rows::{Subject, several};
use crate::postgres::{Connection, Session, copy, pg_dump, tables};

/// A server that has the cluster as it was and does not change any more.
#[derive(Clone, Debug)]
pub struct Past {
    /// The database there, by a login that may read the table.
    pub connection: Connection,
    /// The moment, in words that fit after "as of".
    pub moment: String,
}

/// A table there.
pub(super) struct PastTable<'a> {
    past: &'a Past,
    partitioned: bool,
    pub(super) encoding: String,
    pub(super) rows: u64,
}

impl<'a> PastTable<'a> {
    /// The table that `name` means there.
    pub(super) async fn find(name: &TableName, past: &'a Past) -> Result<(Self, Subject), Failure> {
        let session = past.connection.connect().await.map_err(|error| unreadable(past, error.into()))?;
        let client = session.client();
        let mut found = tables::find(client, name).await?;
        let (Some((table, partitioned)), true) = (found.pop(), found.is_empty()) else {
            return Err(if found.is_empty() { absent(name, past) } else { several(name) });
        };
        let columns = tables::columns(client, &table).await?;
        let key = tables::primary_key(client, &table).await?;
        let encoding = tables::encoding(client).await?;
        let counted = if partitioned { table.quoted() } else { format!("ONLY {}", table.quoted()) };
        let rows = client.query_one(&format!("SELECT pg_catalog.count(*) FROM {counted}"), &[]).await;
        let rows: i64 = rows.map_err(|error| session.failed(&format!("count the rows of {table}"), error))?.get(0);
        let rows = rows.unsigned_abs();
        Ok((Self { past, partitioned, encoding, rows }, Subject { table, columns, key }))
    }

    /// The schema of the table and its partitions alone, as pg_dump archives it.
    pub(super) async fn schema(&self, subject: &Subject, doors: &Doors) -> Result<Vec<u8>, Failure> {
        let tree = self.tree(subject).await?;
        let environment = self.past.connection.child_environment()?;
        output(pg_dump::table_schema(&doors.tools, &environment, &tree)).await
    }

    /// The table and every partition below it.
    pub(super) async fn tree(&self, subject: &Subject) -> Result<Vec<QualifiedTable>, Failure> {
        let session = self.past.connection.connect().await?;
        Ok(tables::tree(session.client(), &subject.table).await?)
    }

    /// The values of its sequences.
    pub(super) async fn sequences(&self, subject: &Subject) -> Result<Vec<SequenceRecord>, Failure> {
        let session = self.past.connection.connect().await?;
        let mut values = Vec::new();
        for sequence in tables::owned_sequences(session.client(), &subject.table).await? {
            values.push(tables::sequence_value(session.client(), sequence).await?);
        }
        Ok(values)
    }

    /// Whether the live table has columns of other names or types.
    pub(super) async fn differs_from_live(&self, subject: &Subject, live: &Session) -> Result<bool, Failure> {
        let session = self.past.connection.connect().await?;
        let then = tables::form(session.client(), &subject.table).await?;
        Ok(then != tables::form(live.client(), &subject.table).await?)
    }

    /// Brings the rows through the COPY `statement` of `session`; what they add up to is what the server then had.
    pub(super) async fn bring(
        &self,
        subject: &Subject,
        session: Session,
        statement: &str,
        setting: &Setting,
    ) -> Result<(Session, TableSum), Failure> {
        setting.events.step(format!("loading {} as of {}", subject.table, self.past.moment));
        let from = copy::connect(&self.past.connection, &self.encoding).await?;
        let (table, columns) = (subject.table.quoted(), tables::column_list(&subject.columns));
        let reading = match self.partitioned {
            true => format!("COPY (SELECT {columns} FROM {table}) TO STDOUT"),
            false => format!("COPY {table} ({columns}) TO STDOUT"),
        };
        let told = |sum: &TableSum| {
            setting.events.tell(Event::Progress { bytes: sum.bytes, expected_bytes: None, rows: sum.rows });
        };
        let sum = copy::carry((&from, &reading), (&session, statement), &told).await?;
        if sum.rows != self.rows {
            let message =
                format!("read {} as of {}: {} rows came of {}", subject.table, self.past.moment, sum.rows, self.rows);
            return Err(Failure::new(FailureKind::Integrity, message).hint("Nothing of it was kept; run it again."));
        }
        Ok((session, sum))
    }
}

fn absent(name: &TableName, past: &Past) -> Failure {
    let message = format!("find the table {name} in the database {} as of {}", past.connection.database(), past.moment);
    Failure::new(FailureKind::NothingMatches, message)
        .hint("It was made later, dropped before, or had another name then. Try another moment, or write SCHEMA.TABLE.")
}

/// The database and the role have to have been there as well.
fn unreadable(past: &Past, error: Failure) -> Failure {
    let (user, database) = (past.connection.user(), past.connection.database());
    let message = format!("read the database {database} as {user} as of {}: {}", past.moment, error.full_message());
    Failure::new(error.kind, message).hint("Database and role must have been there at that moment, under these names.")
}
