//! What belongs to a database itself and is in no table: its settings, owner, comment, connection limit and privileges.
//!
//! They are set last, when everything is proven: a setting such as `default_transaction_read_only` would get into the way of
//! the restore. One that cannot be set (a role that is not there) is told and does not lose what was restored.

use std::time::Duration;

use crate::host::ChildSpec;
use crate::host::child::run_to_end;
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::ObjectRole;
use crate::ops::Setting;
use crate::ops::restore::Doors;
use crate::ops::restore::database::{DatabaseOptions, SchemaFile};
use crate::ops::restore::source::Choice;
use crate::postgres::{Session, pg_restore};

/// Longest that pg_restore may take to print a script out of a schema archive.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a database has of its own beside its settings, and `--no-owner` leaves out.
const OF_OWNERS: [&str; 4] = ["ALTER ROLE ", "GRANT ", "REVOKE ", "SECURITY LABEL "];

/// Gives the database `target.1` what the backup's schema archive says of the database itself, over the session `target.0`.
pub(super) async fn apply(
    options: &DatabaseOptions,
    choice: &Choice,
    doors: &Doors,
    target: (&Session, &str),
    setting: &Setting,
) -> Result<(), Failure> {
    setting.events.step("setting what belongs to the database itself");
    let schema = choice.read(ObjectRole::Schema, doors).await?;
    let script = script(doors, &SchemaFile::write(&doors.scratch_directory, &schema)?).await?;
    let wanted = pg_restore::statements(&script).into_iter().filter(|statement| is_wanted(statement, options.no_owner));
    for statement in wanted {
        let Some(statement) = pg_restore::for_database(&statement, target.1) else { continue };
        if let Err(error) = target.0.batch(&statement).await {
            let what = without_value(&statement);
            let why = Failure::from(error).full_message();
            setting.events.note(format!("not set on the restored database ({what}): {why}"));
        }
    }
    Ok(())
}

async fn script(doors: &Doors, schema: &SchemaFile) -> Result<String, Failure> {
    let listed = print(pg_restore::list(&doors.tools, schema.path())).await?;
    let chosen: String =
        listed.lines().filter(|line| pg_restore::is_of_database(line)).map(|line| format!("{line}\n")).collect();
    let chosen = SchemaFile::write(&doors.scratch_directory, chosen.as_bytes())?;
    print(pg_restore::chosen_script(&doors.tools, chosen.path(), schema.path())).await
}

/// What a program that reads an archive prints.
pub(super) async fn print(spec: ChildSpec) -> Result<String, Failure> {
    String::from_utf8(output(spec).await?)
        .map_err(|error| Failure::new(FailureKind::Failed, "read the schema that goes with the rows").because(error))
}

/// What a program that reads or makes an archive of a schema gives.
pub(super) async fn output(spec: ChildSpec) -> Result<Vec<u8>, Failure> {
    let run = tokio::task::spawn_blocking(move || run_to_end(&spec, PATIENCE));
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, "read the schema that goes with the rows").because(error)
    };
    Ok(run.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?.stdout)
}

/// CREATE DATABASE made it already, and a template is made by nobody's restore.
fn is_wanted(statement: &str, no_owner: bool) -> bool {
    let of_owner = OF_OWNERS.iter().any(|kind| statement.starts_with(kind)) || statement.contains(" OWNER TO ");
    let settles = statement.starts_with("ALTER DATABASE ") || statement.starts_with("COMMENT ON DATABASE ") || of_owner;
    settles && !statement.contains(" IS_TEMPLATE ") && !(no_owner && of_owner)
}

/// A setting's value may be a secret.
fn without_value(statement: &str) -> &str {
    let end = [" TO ", " IS "].iter().filter_map(|word| statement.find(word)).min();
    &statement[..end.unwrap_or(statement.len())]
}
