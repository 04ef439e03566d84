//! Whether each dump job could be run now: a rehearsal with the dump's own locks and questions.
//!
//! The coordinator of the real dump is asked and let go at once, so that check and dump can never disagree. It holds
//! ACCESS SHARE locks for a moment, which hold up nobody but an exclusive lock.

use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::check::{CheckLine, Dump, again};
use crate::postgres::{Connection, Coordinator};

const RIGHTS: &str = "dump-rights";
const LARGE_OBJECTS: &str = "dump-large-objects";
const PRIMARY_KEYS: &str = "dump-primary-keys";

pub(super) async fn check(dumps: &[Dump], setting: &Setting) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    for dump in dumps {
        match rehearse(dump, setting).await {
            Ok(found) => lines.extend(found),
            Err(failure) => lines.extend(not_carried_out(dump, &failure)),
        }
    }
    lines
}

fn not_carried_out(dump: &Dump, failure: &Failure) -> [CheckLine; 3] {
    let job = &dump.job;
    let same = |check| {
        let message = format!("{job}: not carried out, because the dump cannot be begun");
        CheckLine::fail(check, message, format!("see the line {RIGHTS} of {job}"))
    };
    [CheckLine::failed(RIGHTS, job, failure), same(LARGE_OBJECTS), same(PRIMARY_KEYS)]
}

async fn rehearse(dump: &Dump, setting: &Setting) -> Result<[CheckLine; 3], Failure> {
    let connection = dump.connection.as_ref().map_err(again)?;
    let coordinator = Coordinator::begin(connection, &dump.scope, setting.clock.as_ref()).await?;
    let (tables, large_objects) = (coordinator.tables().len(), coordinator.large_object_count());
    let oids: Vec<u32> = coordinator.tables().iter().map(|covered| covered.oid).collect();
    coordinator.release().await?;
    let message = format!("{}: every row of {tables} tables can be read, partitions counted", dump.job);
    let keys = match without_primary_key(connection, &oids).await {
        Ok(names) => primary_keys(dump.verb, &dump.job, &names),
        Err(failure) => CheckLine::failed(PRIMARY_KEYS, &dump.job, &failure),
    };
    Ok([CheckLine::ok(RIGHTS, message), large_objects_line(dump, large_objects), keys])
}

fn large_objects_line(dump: &Dump, count: u64) -> CheckLine {
    let job = &dump.job;
    match (count, dump.scope.large_objects) {
        (0, _) => CheckLine::ok(LARGE_OBJECTS, format!("{job}: the database has no large objects")),
        (_, true) => CheckLine::ok(LARGE_OBJECTS, format!("{job}: all {count} large objects can be read")),
        (_, false) => {
            let message = format!("{job}: the database has {count} large objects, and the job leaves them out");
            CheckLine::warn(LARGE_OBJECTS, message, "set large_objects = true in the job if they are needed")
        }
    }
}

/// A table without a primary key is no fault, but can only be replaced whole; so it is said.
fn primary_keys(verb: Verb, job: &str, without: &[String]) -> CheckLine {
    let message = match without {
        [] => format!("{job}: every table has a primary key"),
        names if verb == Verb::Increment => {
            format!("{job}: no primary key, so copied whole each time: {}", names.join(", "))
        }
        names => format!("{job}: no primary key, so restored whole and never merged: {}", names.join(", ")),
    };
    CheckLine::ok(PRIMARY_KEYS, message)
}

async fn without_primary_key(connection: &Connection, oids: &[u32]) -> Result<Vec<String>, Failure> {
    let session = connection.connect().await?;
    let query = include_str!("../../../sql/check/without_primary_key.sql");
    let rows = session.client().query(query, &[&oids]).await;
    let rows = rows.map_err(|error| session.failed("ask for primary keys", error))?;
    let name = |row: &tokio_postgres::Row| -> Result<String, tokio_postgres::Error> {
        let table = QualifiedTable { schema: row.try_get(0)?, name: row.try_get(1)? };
        Ok(table.to_string())
    };
    let names: Result<Vec<String>, _> = rows.iter().map(name).collect();
    names.map_err(|error| Failure::new(FailureKind::Failed, "read what was found").because(error))
}
