//! The form a table had, from an archive of its schema: where it is no longer there, or was altered since.
//!
//! It is made as a temporary table and copied from there: nobody ever sees it empty under its own name. Columns, defaults
//! that need no sequence, checks and generated columns come back, and its primary key once the rows are there; other
//! indexes, foreign keys, triggers and privileges do not.

use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::ops::restore::Doors;
use crate::ops::restore::database::SchemaFile;
use crate::ops::restore::properties::print;
use crate::postgres::{PostgresError, Session, pg_restore, tables};

/// Makes the empty table `name` as `table` was, in the transaction of `session`; `schema` is an archive that has it.
pub(super) async fn create(
    session: &Session,
    name: &QualifiedTable,
    table: &QualifiedTable,
    schema: &[u8],
    doors: &Doors,
) -> Result<(), Failure> {
    let schema = SchemaFile::write(&doors.scratch_directory, schema)?;
    let script = print(pg_restore::table_script(&doors.tools, table, schema.path())).await?;
    let form = QualifiedTable::new("pg_temp", "dbagent_form");
    let statement = pg_restore::statements(&script).iter().find_map(|each| pg_restore::for_table(each, &form));
    let Some(statement) = statement else {
        let message = format!("find the form of the table {table} in the schema that goes with its rows");
        return Err(Failure::new(FailureKind::NothingMatches, message).hint(ELSEWHERE));
    };
    let made = async {
        session.batch(&statement).await?;
        tables::create_like(session.client(), name, &form).await?;
        tables::drop(session.client(), &form).await
    };
    made.await.map_err(|error| {
        let message = format!("make a table as {table} was: {}", Failure::from(error).full_message());
        Failure::new(FailureKind::Failed, message).hint(ELSEWHERE)
    })
}

const ELSEWHERE: &str = "What it is made of (a schema, a type, a function) may be gone too. Restore the whole database beside with \
    --database and --to-database, and take the table from there.";

/// Gives the filled table `made` its primary key and the name `name`, at once.
pub(super) async fn finish(
    session: &Session,
    made: &QualifiedTable,
    name: &QualifiedTable,
    key: &[String],
) -> Result<(), PostgresError> {
    let mut statements = Vec::new();
    if made != name {
        let renamed = crate::model::table::quote_identifier(&name.name);
        statements.push(format!("ALTER TABLE {} RENAME TO {renamed}", made.quoted()));
    }
    if !key.is_empty() {
        statements.push(format!("ALTER TABLE {} ADD PRIMARY KEY ({})", name.quoted(), tables::column_list(key)));
    }
    session.batch(&statements.join("; ")).await
}
