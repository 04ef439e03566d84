//! The form of a table that is no longer there, from the backup's schema archive.
//!
//! The table is made and forgotten again inside one transaction: nobody ever sees it empty under its own name. Columns,
//! defaults that need no sequence, checks and generated columns come back, and its primary key once the rows are there;
//! other indexes, foreign keys, triggers and privileges do not.

use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::ObjectRole;
use crate::model::table::QualifiedTable;
use crate::ops::restore::Doors;
use crate::ops::restore::database::SchemaFile;
use crate::ops::restore::properties::print;
use crate::ops::restore::source::Choice;
use crate::postgres::{PostgresError, Session, pg_restore, tables};

const KINDS: [&str; 2] = ["CREATE TABLE ", "CREATE UNLOGGED TABLE "];

/// Makes the empty table `name` as `gone` was.
pub(super) async fn create(
    session: &Session,
    name: &QualifiedTable,
    gone: &QualifiedTable,
    choice: &Choice,
    doors: &Doors,
) -> Result<(), Failure> {
    let schema = choice.read(ObjectRole::Schema, doors).await?;
    let schema = SchemaFile::write(&doors.scratch_directory, &schema)?;
    let script = print(pg_restore::table_script(&doors.tools, gone, schema.path())).await?;
    let is_form = |statement: &String| KINDS.iter().any(|kind| statement.starts_with(kind));
    let Some(statement) = pg_restore::statements(&script).into_iter().find(is_form) else {
        let message = format!("find the form of the table {gone} in the backup's schema");
        return Err(Failure::new(FailureKind::NothingMatches, message).hint(ELSEWHERE));
    };
    session.batch("BEGIN").await?;
    let made = async {
        session.batch(&statement).await?;
        tables::create_like(session.client(), name, gone).await?;
        tables::drop(session.client(), gone).await?;
        session.batch("COMMIT").await
    };
    match made.await {
        Ok(()) => Ok(()),
        Err(error) => {
            session.batch("ROLLBACK").await?;
            let message = format!("make a table like {gone}, which is gone: {}", Failure::from(error).full_message());
            Err(Failure::new(FailureKind::Failed, message).hint(ELSEWHERE))
        }
    }
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
    let mut statements = vec!["BEGIN".to_owned()];
    if made != name {
        let renamed = crate::model::table::quote_identifier(&name.name);
        statements.push(format!("ALTER TABLE {} RENAME TO {renamed}", made.quoted()));
    }
    if !key.is_empty() {
        statements.push(format!("ALTER TABLE {} ADD PRIMARY KEY ({})", name.quoted(), tables::column_list(key)));
    }
    statements.push("COMMIT".to_owned());
    session.batch(&statements.join("; ")).await
}
