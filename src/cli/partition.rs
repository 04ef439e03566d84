//! `dbagent partition`: the calendar of months and tables, what would be done and why, doing it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::app::App;
use crate::cli::arguments::{Consent, Partition};
use crate::cli::job::{code_of, outcome_text};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, prompt, signals, tables};
use crate::model::failure::{Failure, FailureKind};
use crate::model::partition::{Make, Month, Parent, Partition as Fact, Retire};
use crate::model::size::ByteSize;
use crate::model::table::TableName;
use crate::ops::partition::{self, ConvertPlan, Converter, Surveyed, TableRule};

pub async fn run(app: &App, command: &Partition, output: &Output) -> Result<Code, Failure> {
    let (name, job) = app.partition_job()?;
    let keep_detached = matches!(command, Partition::Maintain { keep_detached: true, .. });
    let options = app.partition_options(name, job, keep_detached)?;
    let doors = app.partition_doors(job).await?;
    let setting = app.setting(progress::on_screen(output), signals::stop());
    if let Partition::Convert { table, undo, finish, consent } = command {
        let rule = find_rule(&options, table)?;
        let converter = Converter::open(rule, &doors, &setting).await?;
        return convert(&converter, (*undo, *finish), consent, output).await;
    }
    let Some(surveyed) = partition::look(&options, &doors, &setting).await? else {
        output.result(&json!({"standby": true}), || "a standby: partitions are maintained on the primary".to_owned());
        return Ok(0);
    };
    match command {
        Partition::List => Ok(list(&surveyed, Month::of(app.clock.now()), output)),
        Partition::Plan | Partition::Convert { .. } => Ok(plan(&surveyed, output)),
        Partition::Maintain { consent, .. } if consent.plan => Ok(plan(&surveyed, output)),
        Partition::Maintain { consent, .. } => {
            let going: usize = surveyed.iter().map(|table| table.plan.retire.len()).sum();
            if going > 0 {
                output.talk(&plan_text(&surveyed, output));
                let what = format!("archive and drop {going} partitions");
                prompt::require_consent(consent, &what, doors.connection.database())?;
            }
            let outcome = partition::run(&options, &doors, &setting).await?;
            output.result(&json!({"outcome": outcome}), || outcome_text(&outcome, output));
            Ok(code_of(&outcome))
        }
    }
}

fn find_rule<'a>(options: &'a partition::Options, table: &str) -> Result<&'a TableRule, Failure> {
    let named: TableName = table
        .parse()
        .map_err(|error| Failure::new(FailureKind::Usage, format!("name the table {table}")).because(error))?;
    let same = |rule: &&TableRule| {
        let schemas = (&rule.name.schema, &named.schema);
        rule.name.name == named.name && (schemas.0.is_none() || schemas.1.is_none() || schemas.0 == schemas.1)
    };
    options.rules.iter().find(same).ok_or_else(|| {
        Failure::new(FailureKind::NothingMatches, format!("find a partition rule for {table} in the plan"))
            .hint(format!("Add [partition.{table}] with its key to the plan, then run `dbagent init --install-sql`."))
    })
}

async fn convert(
    converter: &Converter<'_>,
    (undo, finish): (bool, bool),
    consent: &Consent,
    output: &Output,
) -> Result<Code, Failure> {
    let plan = converter.plan().await?;
    if consent.plan {
        return Ok(show_conversion(&plan, output));
    }
    let what = match (undo, finish) {
        (true, _) => "go back to the plain table",
        (_, true) => "drop the plain table",
        _ => "convert the table while it is in use",
    };
    prompt::require_consent(consent, what, &plan.table.name)?;
    let outcome = match (undo, finish) {
        (true, _) => converter.undo().await?,
        (_, true) => converter.finish().await?,
        _ => converter.convert().await?,
    };
    output.result(&json!({"outcome": outcome}), || outcome_text(&outcome, output));
    Ok(code_of(&outcome))
}

fn show_conversion(plan: &ConvertPlan, output: &Output) -> Code {
    let ConvertPlan { table, obstacles, phase, steps } = plan;
    let phase = phase.map(|phase| format!("{phase:?}").to_lowercase());
    let result = json!({"table": table.to_string(), "obstacles": obstacles, "phase": phase, "steps": steps});
    output.result(&result, || {
        let mut lines = vec![format!("{table}:")];
        let obstacle = output.paint(Tone::Bad, "obstacle:");
        lines.extend(obstacles.iter().map(|why| format!("  {obstacle} {why}")));
        lines.extend(steps.iter().enumerate().map(|(at, step)| format!("  {}. {step}", at + 1)));
        lines.join("\n")
    });
    if obstacles.is_empty() { 0 } else { FailureKind::RefusedForSafety.exit_code() }
}

/// Findings give the exit code that says so.
fn code(surveyed: &[Surveyed]) -> Code {
    let clean = surveyed.iter().all(|table| table.findings.is_empty() && table.plan.findings.is_empty());
    if clean { 0 } else { FailureKind::Findings.exit_code() }
}

fn plan(surveyed: &[Surveyed], output: &Output) -> Code {
    let result = json!({"tables": surveyed.iter().map(json_of).collect::<Vec<_>>()});
    output.result(&result, || plan_text(surveyed, output));
    code(surveyed)
}

fn json_of(table: &Surveyed) -> Value {
    let fact = |partition: &Fact| {
        json!({"partition": partition.table.to_string(), "from": partition.bound.interval().map(|(from, _)| from),
               "to": partition.bound.interval().map(|(_, to)| to), "rows": partition.rows, "bytes": partition.bytes})
    };
    let retire = |retire: &Retire| {
        let mut value = fact(&retire.partition);
        value["reason"] = json!(retire.to_string());
        value
    };
    let parent = table.found.as_ref().map(|(_, parent)| parent);
    json!({
        "table": parent.map_or_else(|| table.rule.name.to_string(), |parent| parent.table.to_string()),
        "partitions": parent.map(|parent| parent.partitions.iter().map(fact).collect::<Vec<_>>()),
        "rows_in_default": parent.map(Parent::rows_in_default),
        "make": table.plan.make,
        "retire": table.plan.retire.iter().map(retire).collect::<Vec<_>>(),
        "finish": table.plan.finish.iter().map(fact).collect::<Vec<_>>(),
        "findings": table.findings.iter().chain(&table.plan.findings).collect::<Vec<_>>(),
    })
}

fn plan_text(surveyed: &[Surveyed], output: &Output) -> String {
    let mut rows = Vec::new();
    for table in surveyed {
        rows.extend(table.plan.finish.iter().map(|partition| {
            let why = "its detachment was cut off".to_owned();
            vec![output.paint(Tone::Warning, "finish"), partition.table.to_string(), size(partition), why]
        }));
        rows.extend(table.plan.make.iter().map(|make| make_row(make, output)));
        rows.extend(table.plan.retire.iter().map(|retire| {
            let rule = &table.rule.rule;
            let what = match (rule.archive, rule.keep_detached) {
                (true, false) if rule.seal => "archive, seal, drop",
                (true, true) if rule.seal => "archive, seal, detach",
                (true, false) => "archive, drop",
                (false, false) => "drop",
                (true, true) => "archive, detach",
                (false, true) => "detach",
            };
            let why = retire.to_string();
            vec![output.paint(Tone::Bad, what), retire.partition.table.to_string(), size(&retire.partition), why]
        }));
    }
    let nothing = rows.is_empty();
    let mut text = if nothing {
        "nothing to make, nothing to drop".to_owned()
    } else {
        tables::table(&["what", "partition", "size", "why"], rows)
    };
    for finding in surveyed.iter().flat_map(|table| table.findings.iter().chain(&table.plan.findings)) {
        text.push_str(&format!(
            "\n{}: {}",
            output.paint(Tone::Warning, &finding.severity.to_string()),
            finding.message
        ));
        text.extend(finding.remedy.iter().map(|remedy| format!("\n  remedy: {remedy}")));
    }
    text
}

fn make_row(make: &Make, output: &Output) -> Vec<String> {
    let moves = if make.moves > 0 { format!("; {} rows move out of default", make.moves) } else { String::new() };
    let why = format!("{}, {} to {}{moves}", make.reason, make.from, make.to);
    vec![output.paint(Tone::Good, "make"), make.table.to_string(), String::new(), why]
}

fn size(partition: &Fact) -> String {
    format!("about {} rows, {}", partition.rows, ByteSize(partition.bytes))
}

fn list(surveyed: &[Surveyed], present: Month, output: &Output) -> Code {
    let result = json!({"tables": surveyed.iter().map(json_of).collect::<Vec<_>>()});
    output.result(&result, || {
        let parents: Vec<&Parent> =
            surveyed.iter().filter_map(|table| table.found.as_ref().map(|(_, parent)| parent)).collect();
        let mut headings = vec!["month".to_owned()];
        headings.extend(parents.iter().map(|parent| parent.table.to_string()));
        let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
        let rows = calendar(&parents).into_iter().map(|month| {
            let mark = if month == present { " <" } else { "" };
            let cells = parents.iter().map(|parent| cell(parent, month, output));
            std::iter::once(format!("{month}{mark}")).chain(cells).collect()
        });
        let mut text = tables::table(&headings, rows.collect());
        for finding in surveyed.iter().flat_map(|table| &table.findings) {
            text.push_str(&format!(
                "\n{}: {}",
                output.paint(Tone::Warning, &finding.severity.to_string()),
                finding.message
            ));
        }
        text
    });
    code(surveyed)
}

/// Every month in which some partition begins.
fn calendar(parents: &[&Parent]) -> BTreeSet<Month> {
    let partitions = parents.iter().flat_map(|parent| &parent.partitions);
    partitions.filter_map(|partition| partition.bound.interval()).map(|(from, _)| Month::of(from)).collect()
}

fn cell(parent: &Parent, month: Month, output: &Output) -> String {
    let begins = |partition: &&Fact| {
        partition.bound.interval().is_some_and(|(from, to)| from < month.upper() && to > month.lower())
    };
    let found: Vec<&Fact> = parent.partitions.iter().filter(begins).collect();
    match found.as_slice() {
        [] => output.paint(Tone::Warning, "-"),
        [one] if one.detach_pending => output.paint(Tone::Warning, "detaching"),
        [one] => format!("{} rows, {}", one.rows, ByteSize(one.bytes)),
        several => format!("{} parts, {}", several.len(), ByteSize(several.iter().map(|part| part.bytes).sum())),
    }
}
