//! `dbagent restore`: a database or a table, always ending in the proof.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::app::App;
use crate::catalog::Selector;
use crate::cli::arguments::{Restore, TableMode as Mode};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, past, progress, prompt, recover, signals};
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::TableName;
use crate::ops::Setting;
use crate::ops::restore::{self, Choice, DatabaseOptions, Doors, Restored, TableMode, TableOptions, TablePlan, Wanted};

/// Longest wait for the lock of a table that rows are brought into.
const LOCK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

pub async fn run(app: &App, arguments: &Restore, output: &Output) -> Result<Code, Failure> {
    if arguments.to.is_some() {
        return recover::run(app, arguments, output).await;
    }
    if arguments.is_past_table() {
        return past::run(app, arguments, output).await;
    }
    if arguments.timeline.is_some() {
        return Err(Failure::new(FailureKind::Usage, "restore: --timeline is of the log, and a dump has none")
            .hint("Say the moment as well: --target-time, or --latest."));
    }
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let wanted = wanted(arguments)?;
    let doors = app.restore_doors(arguments.repository.as_deref(), arguments.jobs).await?;
    match (&arguments.database, &wanted.table) {
        (Some(database), _) => restore_database(arguments, database, &wanted, &doors, &setting, output).await,
        (None, Some(table)) => {
            let table = table.clone();
            restore_table(arguments, table, &wanted, &doors, &setting, output).await
        }
        (None, None) => Err(Failure::new(FailureKind::Usage, "restore: say --database or --table")),
    }
}

fn wanted(arguments: &Restore) -> Result<Wanted, Failure> {
    let Ok(selector) = arguments.backup.parse::<Selector>();
    let table = arguments.table.as_ref().map(|name| name.parse::<TableName>()).transpose();
    Ok(Wanted {
        selector,
        until: arguments.until.as_deref().map(instant).transpose()?,
        database: arguments.database.clone(),
        table: table.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?,
        accept_unsigned: arguments.accept_unsigned,
    })
}

/// An instant with its offset; without one it could be two instants.
fn instant(text: &str) -> Result<DateTime<Utc>, Failure> {
    let read = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%#z"));
    read.map(|instant| instant.with_timezone(&Utc)).map_err(|error| {
        Failure::new(FailureKind::Usage, format!("read {text:?} as an instant"))
            .because(error)
            .hint("Write it like 2026-03-01T14:30:00Z or 2026-03-01T14:30:00+09:00; the offset is required.")
    })
}

fn told(choice: &Choice, output: &Output) {
    let manifest = choice.manifest();
    let taken = crate::cli::tables::instant(manifest.started);
    output.talk(&format!(
        "using {} in repository {}, the state of {taken}",
        choice.artifact.name, choice.repository.name
    ));
}

async fn restore_database(
    arguments: &Restore,
    database: &str,
    wanted: &Wanted,
    doors: &Doors,
    setting: &Setting,
    output: &Output,
) -> Result<Code, Failure> {
    let target = arguments.to_database.clone().unwrap_or_else(|| database.to_owned());
    if arguments.replace && !arguments.consent.plan {
        prompt::require_consent(&arguments.consent, &format!("replace the database {target}"), &target)?;
    }
    restore::require_free_target(&target, arguments.replace, doors).await?;
    let choice = restore::choose(wanted, doors, setting).await?;
    told(&choice, output);
    if arguments.consent.plan {
        let manifest = choice.manifest();
        let rows: u64 = manifest.tables.iter().filter_map(|table| table.content).map(|content| content.rows).sum();
        let text = format!("would restore {rows} rows of {} tables into the database {target}", manifest.tables.len());
        output.result(&json!({"would_restore": {"backup": manifest.id, "rows": rows, "database": target}}), || text);
        return Ok(0);
    }
    let options =
        DatabaseOptions { to_database: Some(target), replace: arguments.replace, no_owner: arguments.no_owner };
    let restored = restore::restore_database(&options, &choice, doors, setting).await?;
    show(&restored, output);
    Ok(0)
}

async fn restore_table(
    arguments: &Restore,
    table: TableName,
    wanted: &Wanted,
    doors: &Doors,
    setting: &Setting,
    output: &Output,
) -> Result<Code, Failure> {
    let options = table_options(table, arguments)?;
    require_consent(&options, "the backup", arguments)?;
    let choice = restore::choose(wanted, doors, setting).await?;
    told(&choice, output);
    let (plan, restored) = restore::restore_table(&options, &choice, doors, setting).await?;
    match (restored, plan) {
        (Some(restored), _) => show(&restored, output),
        (None, Some(plan)) => {
            output.result(&plan_json(&plan), || plan_text(&plan, &options.mode, "the backup"));
        }
        (None, None) => {}
    }
    Ok(0)
}

/// What is to be done with one table.
pub(super) fn table_options(table: TableName, arguments: &Restore) -> Result<TableOptions, Failure> {
    let beside = arguments.r#as.as_ref().map(|name| name.parse::<TableName>()).transpose();
    let beside = beside.map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    let mode = match arguments.mode {
        None => TableMode::Beside(beside),
        Some(Mode::Merge) => TableMode::Merge,
        Some(Mode::Replace) => TableMode::Replace,
    };
    let (plan_only, reindex) = (arguments.consent.plan, arguments.reindex);
    Ok(TableOptions { table, mode, plan_only, lock_timeout: LOCK_TIMEOUT, reindex })
}

/// Rows that are deleted are asked about first.
pub(super) fn require_consent(options: &TableOptions, what: &str, arguments: &Restore) -> Result<(), Failure> {
    if options.mode != TableMode::Replace || options.plan_only {
        return Ok(());
    }
    let table = &options.table;
    prompt::require_consent(&arguments.consent, &format!("make the table {table} equal to {what}"), &table.name)
}

pub(super) fn plan_json(plan: &TablePlan) -> serde_json::Value {
    let counts = plan.counts;
    json!({"table": plan.table.to_string(), "missing": counts.missing, "differing": counts.differing, "extra": counts.extra})
}

pub(super) fn plan_text(plan: &TablePlan, mode: &TableMode, what: &str) -> String {
    let counts = plan.counts;
    match mode {
        TableMode::Beside(_) => format!("would make {} with {} rows", plan.table, counts.missing),
        TableMode::Merge | TableMode::Replace => format!(
            "{}: {} rows are missing, {} differ, {} are not in {what} (merge leaves those, replace deletes them)",
            plan.table, counts.missing, counts.differing, counts.extra
        ),
    }
}

pub(super) fn json_of(restored: &Restored) -> serde_json::Value {
    let phases: Vec<_> =
        restored.phases.iter().map(|(name, seconds)| json!({"phase": name, "seconds": seconds})).collect();
    json!({
        "restored": restored.target, "rows": restored.rows(), "proofs": restored.proofs, "phases": phases,
        "not_exact": restored.inexact,
    })
}

fn show(restored: &Restored, output: &Output) {
    output.result(&json_of(restored), || {
        let equal = format!("{} holds {} rows, proven equal to the backup", restored.target, restored.rows());
        let inexact = restored.inexact.iter().map(|table| {
            output.paint(
                Tone::Warning,
                &format!("  not exact: {table} (its increments saw neither deletions nor late rows)"),
            )
        });
        let phases = restored.phases.iter().map(|(name, seconds)| format!("  {name}: {seconds:.1} s"));
        std::iter::once(output.paint(Tone::Good, &equal)).chain(inexact).chain(phases).collect::<Vec<_>>().join("\n")
    });
}
