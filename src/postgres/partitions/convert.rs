//! A conversion at the server: what stands in its way, how far it is, its steps, and whether both tables are equal.
//!
//! Everything that a run must know after a crash is in `dbagent.conversions` and in the catalog. The comparison needs no
//! lock: under one snapshot the two tables may differ only in the rows whose keys are in the journal, so all others are
//! summed on both sides.

use chrono::NaiveDate;
use tokio_postgres::types::ToSql;

use crate::model::digest::TableSum;
use crate::model::partition::Month;
use crate::model::table::QualifiedTable;
use crate::postgres::connection::{Connection, Session};
use crate::postgres::copy;
use crate::postgres::error::PostgresError;
use crate::postgres::partitions::{Maintenance, Origin, Patience};
use crate::postgres::tables::column_list;

/// How far a conversion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Rows are being copied; the plain table is in use.
    Copying,
    /// The partitioned table is in use; the plain one is still there.
    Swapped,
}

/// A conversion that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// How far it is.
    pub phase: Phase,
    /// The table in use, quoted.
    live: String,
    /// The other, quoted.
    other: String,
    /// The journal, quoted.
    journal: String,
    /// The first month, and the first after the last.
    pub months: (NaiveDate, NaiveDate),
}

/// One step of a conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The partitioned table, the journal and the tracking trigger.
    Begin,
    /// From which month on there are rows.
    Range,
    /// Copies a month.
    Month(Month),
    /// Copies what belongs to no month.
    Rest,
    /// Applies at most so many entries of the journal.
    CatchUp(i32),
    /// The names change.
    Swap,
    /// Statistics.
    Analyze,
    /// Back to the plain table.
    Undo,
    /// The plain table goes.
    Finish,
}

impl Step {
    fn query(self) -> &'static str {
        match self {
            Self::Begin => include_str!("../../../sql/partition/convert_begin.sql"),
            Self::Range => include_str!("../../../sql/partition/convert_range.sql"),
            Self::Month(_) => include_str!("../../../sql/partition/convert_month.sql"),
            Self::Rest => include_str!("../../../sql/partition/convert_rest.sql"),
            Self::CatchUp(_) => include_str!("../../../sql/partition/convert_catch_up.sql"),
            Self::Swap => include_str!("../../../sql/partition/convert_swap.sql"),
            Self::Analyze => include_str!("../../../sql/partition/convert_analyze.sql"),
            Self::Undo => include_str!("../../../sql/partition/convert_undo.sql"),
            Self::Finish => include_str!("../../../sql/partition/convert_finish.sql"),
        }
    }

    fn what(self, table: &QualifiedTable) -> String {
        match self {
            Self::Begin => format!("begin the conversion of {table}"),
            Self::Range => format!("find the months of {table}"),
            Self::Month(month) => format!("copy {month} of {table}"),
            Self::Rest => format!("copy the rows of {table} that belong to no month"),
            Self::CatchUp(_) => format!("catch up with what is written to {table}"),
            Self::Swap => format!("give the name {table} to the partitioned table"),
            Self::Analyze => format!("analyze {table}"),
            Self::Undo => format!("go back to the plain table {table}"),
            Self::Finish => format!("drop the plain table that was {table}"),
        }
    }
}

impl Maintenance {
    /// Why the table cannot be converted while it is in use; nothing when it can.
    pub async fn convert_obstacles(&self, origin: &Origin, key: &str) -> Result<Vec<String>, PostgresError> {
        let query = include_str!("../../../sql/partition/convert_obstacles.sql");
        let rows = self.session.client().query(query, &[&origin.oid, &key]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The conversion of `table` that is under way, if there is one.
    pub async fn conversion(&self, table: &QualifiedTable) -> Result<Option<Conversion>, PostgresError> {
        let query = include_str!("../../../sql/partition/conversion.sql");
        let row = self.session.client().query_opt(query, &[&table.schema, &table.name]).await?;
        Ok(row.map(|row| Conversion {
            phase: if row.get::<_, &str>(0) == "swapped" { Phase::Swapped } else { Phase::Copying },
            live: row.get(1),
            other: row.get(2),
            journal: row.get(3),
            months: (row.get(4), row.get(5)),
        }))
    }

    /// The months that are not copied yet, the present and later ones last.
    pub async fn months_to_copy(&self, table: &QualifiedTable) -> Result<Vec<Month>, PostgresError> {
        let query = include_str!("../../../sql/partition/convert_months.sql");
        let rows = self.session.client().query(query, &[&table.schema, &table.name]).await?;
        Ok(rows.iter().map(|row| Month::of_day(row.get(0))).collect())
    }

    /// Takes one step, in a transaction of its own. Gives the rows or entries it was about, where it is about any.
    pub async fn convert_step(
        &self,
        table: &QualifiedTable,
        step: Step,
        patience: Patience<'_>,
    ) -> Result<u64, PostgresError> {
        let (day, most);
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&table.schema, &table.name];
        match step {
            Step::Month(month) => {
                day = month.first_day();
                parameters.push(&day);
            }
            Step::CatchUp(entries) => {
                most = entries;
                parameters.push(&most);
            }
            _ => {}
        }
        let row = self.change(&step.what(table), step.query(), &parameters, patience).await?;
        let counts = matches!(step, Step::Month(_) | Step::Rest | Step::CatchUp(_));
        Ok(if counts { u64::try_from(row.get::<_, i64>(0)).unwrap_or_default() } else { 0 })
    }
}

/// What the rows add up to of the table in use and of the other, those left out whose keys are in the journal: all under
/// one snapshot. `reader` may read both, and schema dbagent.
pub async fn compare(
    reader: &Connection,
    encoding: &str,
    conversion: &Conversion,
) -> Result<(TableSum, TableSum), PostgresError> {
    let session = copy::connect(reader, encoding).await?;
    session.batch("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
    let Conversion { live, other, journal, .. } = conversion;
    let key = names(&session, include_str!("../../../sql/table/primary_key.sql"), live).await?;
    let columns = names(&session, include_str!("../../../sql/table/columns.sql"), live).await?;
    let (key, columns) = (column_list(&key), column_list(&columns));
    let statement = |table: &str| {
        format!("COPY (SELECT {columns} FROM {table} WHERE ({key}) NOT IN (SELECT {key} FROM {journal})) TO STDOUT")
    };
    let sums = (copy::sum(&session, &statement(live)).await?, copy::sum(&session, &statement(other)).await?);
    session.batch("COMMIT").await?;
    Ok(sums)
}

async fn names(session: &Session, query: &str, table: &str) -> Result<Vec<String>, PostgresError> {
    Ok(session.client().query(query, &[&table]).await?.iter().map(|row| row.get(0)).collect())
}
