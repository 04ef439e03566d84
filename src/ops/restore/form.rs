//! The form a table had, from an archive of its schema: where it was altered since, or comes back under another name.
//!
//! It is made as a temporary table, to be copied from. Columns, defaults that need no sequence, checks and generated columns
//! come back, and its primary key once the rows are there. A table that is gone and comes back under its own name has
//! everything else too (see [`super::belongings`]).

use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::ops::restore::Doors;
use crate::ops::restore::database::SchemaFile;
use crate::ops::restore::properties::print;
use crate::postgres::{PostgresError, Session, pg_restore, tables};

/// Makes the temporary table [`form`] as `table` was; `schema` is an archive that has it.
pub(super) async fn make(
    session: &Session,
    table: &QualifiedTable,
    schema: &[u8],
    doors: &Doors,
) -> Result<(), Failure> {
    let schema = SchemaFile::write(&doors.scratch_directory, schema)?;
    let script = print(pg_restore::table_script(&doors.tools, table, schema.path())).await?;
    let statement = pg_restore::statements(&script).iter().find_map(|each| pg_restore::for_table(each, &form()));
    let Some(statement) = statement else { return Err(no_form(table)) };
    session.batch(&statement).await.map_err(|error| {
        let message = format!("make a table as {table} was: {}", Failure::from(error).full_message());
        Failure::new(FailureKind::Failed, message).hint(ELSEWHERE)
    })
}

/// The table that [`make`] makes.
pub(super) fn form() -> QualifiedTable {
    QualifiedTable::new("pg_temp", "dbagent_form")
}

/// Gives the filled table `name` its primary key.
pub(super) async fn finish(session: &Session, name: &QualifiedTable, key: &[String]) -> Result<(), PostgresError> {
    if key.is_empty() {
        return Ok(());
    }
    session.batch(&format!("ALTER TABLE {} ADD PRIMARY KEY ({})", name.quoted(), tables::column_list(key))).await
}

pub(super) fn no_form(table: &QualifiedTable) -> Failure {
    let message = format!("find the form of the table {table} in the schema that goes with its rows");
    Failure::new(FailureKind::NothingMatches, message).hint(ELSEWHERE)
}

pub(super) const ELSEWHERE: &str = "What it is made of (a schema, a type, a function) may be gone too. Restore the whole database beside with \
    --database and --to-database, and take the table from there.";
