//! `dbagent restore`: a database or a table, always ending in the proof.

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::app::App;
use crate::app::restored_chain::{PutBack, RestoredChain, Stated};
use crate::catalog::Selector;
use crate::cli::arguments::{Restore, TableMode as Mode};
use crate::cli::output::{Output, Tone};
use crate::cli::recover::chain_text;
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
        (Some(database), _) => restore_database(arguments, database, &wanted, (app, &doors), &setting, output).await,
        (None, Some(table)) => {
            let table = table.clone();
            restore_table(arguments, table, &wanted, (app, &doors), &setting, output).await
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
        plan_only: arguments.consent.plan,
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
    (app, doors): (&App, &Doors),
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
        let possible = choice.require_openable(doors, setting).await;
        let (planned, text) = database_plan(&choice, &target)?;
        return show_plan(possible, &planned, text, output);
    }
    let options =
        DatabaseOptions { to_database: Some(target), replace: arguments.replace, no_owner: arguments.no_owner };
    let restored = restore::restore_database(&options, &choice, doors, setting).await?;
    let state = choice.manifest().started;
    let back = put_back(restored.target.clone(), Some(state), &format!("from the backup {}", choice.artifact.name));
    let chain = app.chain_after_restore(&back, setting).await;
    show(&restored, Some(&chain), output);
    Ok(code_of(Some(&chain)))
}

/// What would be in the database.
fn database_plan(choice: &Choice, target: &str) -> Result<(serde_json::Value, String), Failure> {
    let manifest = choice.manifest();
    let (rows, uncounted) = choice.rows()?;
    let about = if uncounted.is_empty() { "" } else { "about " };
    let tables = manifest.tables.len();
    let told = format!("would restore {about}{rows} rows of {tables} tables into the database {target}");
    let lines = uncounted.iter().map(|table| format!("  not counted by its newest increment: {table}"));
    let text = std::iter::once(told).chain(lines).collect::<Vec<_>>().join("\n");
    let planned = json!({"backup": manifest.id, "rows": rows, "not_exact": uncounted, "database": target});
    Ok((json!({"would_restore": planned}), text))
}

/// A plan, and where it cannot be carried out the failure that would come of it: whoever reads only the exit code must not
/// take it for possible.
pub(super) fn show_plan(
    possible: Result<(), Failure>,
    planned: &serde_json::Value,
    text: String,
    output: &Output,
) -> Result<Code, Failure> {
    match possible {
        Ok(()) => output.result(planned, || text),
        Err(failure) => {
            output.talk(&text);
            return Err(failure);
        }
    }
    Ok(0)
}

async fn restore_table(
    arguments: &Restore,
    table: TableName,
    wanted: &Wanted,
    (app, doors): (&App, &Doors),
    setting: &Setting,
    output: &Output,
) -> Result<Code, Failure> {
    let options = table_options(table, arguments)?;
    require_consent(&options, "the backup", arguments)?;
    let choice = restore::choose(wanted, doors, setting).await?;
    told(&choice, output);
    let (plan, restored) = restore::restore_table(&options, &choice, doors, setting).await?;
    let state = choice.manifest().started;
    match (restored, plan) {
        (Some(restored), _) => {
            let from = format!("from the backup {}", choice.artifact.name);
            let chain = chain_of_table(app, (&restored, &options.mode), (doors, state), &from, setting).await;
            show(&restored, chain.as_ref(), output);
            Ok(code_of(chain.as_ref()).max(code_of_table(&restored)))
        }
        (None, Some(plan)) => {
            let possible = choice.require_openable(doors, setting).await;
            show_plan(possible, &plan_json(&plan), plan_text(&plan, &options.mode, "the backup"), output)
        }
        (None, None) => Ok(0),
    }
}

fn put_back(database: String, state: Option<DateTime<Utc>>, from: &str) -> PutBack {
    let reason = match state {
        Some(state) => format!("dbagent restore {from}, the state of {}", crate::cli::tables::instant(state)),
        None => format!("dbagent restore {from}"),
    };
    PutBack { database, state, reason }
}

/// What became of the audit chain where rows of its log were brought back in place; nothing of another table.
pub(super) async fn chain_of_table(
    app: &App,
    (restored, mode): (&Restored, &TableMode),
    (doors, state): (&Doors, DateTime<Utc>),
    from: &str,
    setting: &Setting,
) -> Option<RestoredChain> {
    restored.places_cut?;
    // Merging takes nothing away: what was signed has to hold all the same.
    let state = (*mode == TableMode::Replace).then_some(state);
    let back = put_back(doors.connection.database().to_owned(), state, &format!("of {} {from}", restored.target));
    Some(app.chain_after_restore(&back, setting).await)
}

/// Exit code 3 while something is left to be done about the audit chain.
pub(super) fn code_of(chain: Option<&RestoredChain>) -> Code {
    match chain {
        Some(chain) if !chain.is_settled() => FailureKind::Findings.exit_code(),
        _ => 0,
    }
}

/// Exit code 3 where something of a table that was gone did not come back.
pub(super) fn code_of_table(restored: &Restored) -> Code {
    if restored.unrestored.failed.is_empty() { 0 } else { FailureKind::Findings.exit_code() }
}

/// What did not come back, a line each.
pub(super) fn unrestored_lines(restored: &Restored, output: &Output) -> Vec<String> {
    let failed = restored.unrestored.failed.iter();
    let failed = failed.map(|what| output.paint(Tone::Warning, &format!("  NOT restored: {what}")));
    let others = &restored.unrestored.others;
    let others = (!others.is_empty()).then(|| {
        format!("  left as they are: {} (what DROP … CASCADE took of them is in the schema object)", others.join(", "))
    });
    failed.chain(others).collect()
}

/// What is to be told of the audit chain, a line each.
pub(super) fn chain_lines(chain: &RestoredChain, output: &Output) -> Vec<String> {
    let rebuilt = chain.rebuilt.map(|rows| format!("  {rows} rows of the audit log were given their places again"));
    let stated = match &chain.stated {
        Stated::Signed => Some("  the restore is stated in the signed record of the audit chain".to_owned()),
        Stated::NotNeeded => None,
        Stated::Missing { why } => Some(output.paint(
            Tone::Warning,
            &format!(
                "  the restore is NOT in the signed record of the audit chain ({why}); until `dbagent audit checkpoint \
                 --restored WHY` no checkpoint is signed"
            ),
        )),
    };
    let told = chain_text(&chain.chain, output).map(|text| format!("  {text}"));
    rebuilt.into_iter().chain(told).chain(stated).collect()
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
        "not_exact": restored.inexact, "not_restored": restored.unrestored.failed,
        "left_as_they_are": restored.unrestored.others,
    })
}

fn show(restored: &Restored, chain: Option<&RestoredChain>, output: &Output) {
    let mut result = json_of(restored);
    if let Some(chain) = chain {
        result["audit"] = json!(chain);
    }
    output.result(&result, || {
        let equal = format!("{} holds {} rows, proven equal to the backup", restored.target, restored.rows());
        let inexact = restored.inexact.iter().map(|table| {
            output.paint(
                Tone::Warning,
                &format!("  not exact: {table} (its increments saw neither deletions nor late rows)"),
            )
        });
        let phases = restored.phases.iter().map(|(name, seconds)| format!("  {name}: {seconds:.1} s"));
        let chain = chain.map(|chain| chain_lines(chain, output)).unwrap_or_default();
        let told = std::iter::once(output.paint(Tone::Good, &equal)).chain(inexact);
        let told = told.chain(unrestored_lines(restored, output)).chain(chain).chain(phases);
        told.collect::<Vec<_>>().join("\n")
    });
}
