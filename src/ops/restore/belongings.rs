//! Everything that belonged to a table that is gone: it comes back as a whole under its own name.
//!
//! Table, partitions, sequences and defaults are made before the rows; keys, indexes, constraints, triggers, rules,
//! policies, statistics, comments, owners and privileges after they are proven. All of it in the transaction of the rows. What the
//! database refuses (a role, a function, a referenced row is gone) is named, with its statement, and keeps nothing else back.

use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::SequenceRecord;
use crate::model::table::QualifiedTable;
use crate::ops::restore::Doors;
use crate::ops::restore::database::SchemaFile;
use crate::ops::restore::form::{ELSEWHERE, no_form};
use crate::ops::restore::properties::print;
use crate::postgres::archive_list::{self, Belonging};
use crate::postgres::{Session, pg_restore, tables};

/// Longest beginning of a statement that is told.
const TOLD: usize = 160;

/// What of a table could not be brought back, and what was left as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unrestored {
    /// Statements that failed, each with the reason.
    pub failed: Vec<String>,
    /// What of other objects had to do with it: views, foreign keys of other tables, publications.
    pub others: Vec<String>,
}

/// The statements that make a table whole.
pub(super) struct Belongings {
    before: Vec<String>,
    after: Vec<String>,
    unrestored: Unrestored,
}

impl Belongings {
    /// Reads out of the archive `schema` what belongs to `table`; `tree` is the table and its partitions.
    pub(super) async fn read(
        schema: &[u8],
        table: &QualifiedTable,
        tree: &[QualifiedTable],
        doors: &Doors,
    ) -> Result<Self, Failure> {
        let schema = SchemaFile::write(&doors.scratch_directory, schema)?;
        let alone = print(pg_restore::list_table(&doors.tools, table, schema.path())).await?;
        let Some(root) = archive_list::table_entry(&alone) else { return Err(no_form(table)) };
        let listing = print(pg_restore::list_with_dependencies(&doors.tools, schema.path())).await?;
        let Belonging { before, after, others } = archive_list::belonging(&listing, root, tree);
        let before = script(&before, &schema, doors).await?;
        let after = script(&after, &schema, doors).await?;
        // Whoever restores may be no member of the owner until the rows are in; privileges are the owner's to give.
        let (owners, before): (Vec<_>, Vec<_>) = before.into_iter().partition(|statement| gives_owner(statement));
        let (grants, after): (Vec<_>, Vec<_>) = after.into_iter().partition(|statement| gives_rights(statement));
        let after = after.into_iter().chain(owners).chain(grants).collect();
        Ok(Self { before, after, unrestored: Unrestored { failed: Vec::new(), others } })
    }

    /// Makes the table, empty, in the transaction of `session`. Errors when it cannot take its rows.
    pub(super) async fn make(&mut self, session: &Session, table: &QualifiedTable) -> Result<(), Failure> {
        for statement in std::mem::take(&mut self.before) {
            let Err(failure) = attempt(session, &statement).await else { continue };
            if !takes_rows(&statement) {
                self.unrestored.failed.push(told(&statement, &failure));
                continue;
            }
            let message = format!("make the table {table} as it was: {}", failure.full_message());
            return Err(Failure::new(FailureKind::Failed, message).hint(ELSEWHERE));
        }
        Ok(())
    }

    /// Gives the filled table everything else, and its sequences the `values` that they had.
    pub(super) async fn finish(
        mut self,
        session: &Session,
        table: &QualifiedTable,
        values: &[SequenceRecord],
    ) -> Result<Unrestored, Failure> {
        for sequence in tables::owned_sequences(session.client(), table).await? {
            match values.iter().find(|value| value.sequence == sequence) {
                Some(value) => tables::set_sequence(session.client(), value).await?,
                None => self.unrestored.failed.push(format!("the value of the sequence {sequence}: it is not known")),
            }
        }
        for statement in std::mem::take(&mut self.after) {
            if let Err(failure) = attempt(session, &statement).await {
                self.unrestored.failed.push(told(&statement, &failure));
            }
        }
        Ok(self.unrestored)
    }
}

/// The statements of the entries that `lines` list.
async fn script(lines: &[String], schema: &SchemaFile, doors: &Doors) -> Result<Vec<String>, Failure> {
    if lines.is_empty() {
        return Ok(Vec::new());
    }
    let chosen: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let chosen = SchemaFile::write(&doors.scratch_directory, chosen.as_bytes())?;
    let script = print(pg_restore::entries_script(&doors.tools, chosen.path(), schema.path())).await?;
    Ok(pg_restore::statements(&script).into_iter().filter_map(wanted).collect())
}

/// The script's settings are not for our session, but for where a table and its indexes lie.
fn wanted(statement: String) -> Option<String> {
    match statement.strip_prefix("SET ") {
        Some(place)
            if place.starts_with("default_tablespace ") || place.starts_with("default_table_access_method ") =>
        {
            Some(format!("SET LOCAL {place}"))
        }
        Some(_) => None,
        None => (!statement.starts_with("SELECT ")).then_some(statement),
    }
}

/// Carries out one statement inside the transaction, which goes on when that fails.
async fn attempt(session: &Session, statement: &str) -> Result<(), Failure> {
    let done = session.batch(&format!("SAVEPOINT dbagent_part; {statement}; RELEASE SAVEPOINT dbagent_part")).await;
    let Err(error) = done else { return Ok(()) };
    let failure = Failure::from(error);
    session.batch("ROLLBACK TO SAVEPOINT dbagent_part").await?;
    Err(failure)
}

fn takes_rows(statement: &str) -> bool {
    statement.starts_with("CREATE TABLE ")
        || statement.starts_with("CREATE UNLOGGED TABLE ")
        || (statement.starts_with("ALTER TABLE ") && statement.contains(" ATTACH PARTITION "))
}

fn gives_owner(statement: &str) -> bool {
    statement.starts_with("ALTER ") && statement.contains(" OWNER TO ")
}

fn gives_rights(statement: &str) -> bool {
    statement.starts_with("GRANT ") || statement.starts_with("REVOKE ")
}

fn told(statement: &str, failure: &Failure) -> String {
    let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
    let beginning: String = statement.chars().take(TOLD).collect();
    let more = if beginning.len() < statement.len() { " …" } else { "" };
    let why = failure.full_message();
    // Where the statement was run is clear; what the server says of it is what counts.
    let why = why.split_once(": ERROR: ").map_or(why.as_str(), |(_, said)| said);
    format!("{beginning}{more}: {why}")
}
