//! `dbagent restore --table NAME --target-time T`: one table as it was, into the live database.

use serde_json::json;

use crate::app::App;
use crate::app::past::PastRestored;
use crate::app::restored_chain::RestoredChain;
use crate::cli::arguments::Restore;
use crate::cli::output::{Output, Tone};
use crate::cli::recover::{options, plan_json, plan_text, precise, total, total_text};
use crate::cli::{Code, progress, restore, signals};
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::TableName;
use crate::ops::recover::{self, Options};
use crate::ops::restore::{TableMode, TableOptions};

pub async fn run(app: &App, arguments: &Restore, output: &Output) -> Result<Code, Failure> {
    let target = options(app, arguments)?;
    let name = arguments.table.clone().unwrap_or_default();
    let name = name.parse::<TableName>().map_err(|error| Failure::new(FailureKind::Usage, error.to_string()))?;
    let table = restore::table_options(name, arguments)?;
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let doors = app.past_doors(arguments.repository.as_deref(), arguments.jobs).await?;
    let plan = recover::plan(&target, &doors.recover, &setting).await?;
    if table.plan_only && matches!(table.mode, TableMode::Beside(_)) {
        let possible = async {
            app.require_past_table(&plan, &table, &doors).await?;
            recover::require_openable(&plan, &doors.recover, &setting).await
        };
        let planned = json!({"plan": plan_json(app, &plan, &target)});
        return restore::show_plan(possible.await, &planned, plan_text(app, &plan, &target), output);
    }
    output.talk(&plan_text(app, &plan, &target));
    let planned = plan_json(app, &plan, &target);
    restore::require_consent(&table, &format!("what it was at {}", target.target), arguments)?;
    let done = app.restore_past_table(&plan, &target, &table, &doors, &setting).await?;
    let chain = match &done.table.1 {
        Some(restored) => {
            let (doors, state) = (&doors.restore, done.started.last_commit.unwrap_or_else(|| app.clock.now()));
            restore::chain_of_table(
                app,
                (restored, &table.mode),
                (doors, state),
                &format!("as of {}", target.target),
                &setting,
            )
            .await
        }
        None => None,
    };
    show(&done, (planned, chain.as_ref()), (app, &target), &table, output);
    let of_table = done.table.1.as_ref().map_or(0, restore::code_of_table);
    Ok(restore::code_of(chain.as_ref()).max(of_table))
}

fn show(
    done: &PastRestored,
    (planned, chain): (serde_json::Value, Option<&RestoredChain>),
    (app, target): (&App, &Options),
    table: &TableOptions,
    output: &Output,
) {
    let mut phases = done.restored.phases.clone();
    phases.extend([("recover", done.started.seconds), ("table", done.seconds)]);
    let (counts, restored) = (&done.table.0, &done.table.1);
    let mut result = match (restored, counts) {
        (Some(restored), _) => restore::json_of(restored),
        (None, Some(counts)) => restore::plan_json(counts),
        (None, None) => json!({}),
    };
    if let (Some(_), Some(counts)) = (restored, counts) {
        result["changed"] = restore::plan_json(counts);
    }
    result["phases"] = phases.iter().map(|(name, seconds)| json!({"phase": name, "seconds": seconds})).collect();
    result["plan"] = planned;
    if let Some(chain) = chain {
        result["audit"] = json!(chain);
    }
    result["seconds"] = json!(total(&phases));
    result["last_commit"] = json!(done.started.last_commit);
    output.result(&result, || {
        let mut lines = Vec::new();
        if let Some(counts) = counts {
            lines.push(restore::plan_text(counts, &table.mode, "the table of then"));
        }
        if let Some(restored) = restored {
            let what = match table.mode {
                TableMode::Merge => "has every row that was there",
                TableMode::Replace | TableMode::Beside(_) => "is proven equal to what it was",
            };
            let told = format!("{} {what} at {}: {} rows", restored.target, target.target, restored.rows());
            lines.push(output.paint(Tone::Good, &told));
            lines.extend(restore::unrestored_lines(restored, output));
        }
        lines.extend(chain.into_iter().flat_map(|chain| restore::chain_lines(chain, output)));
        let last = done.started.last_commit.map_or("none".to_owned(), precise);
        lines.push(format!("last commit replayed: {last}"));
        lines.extend(phases.iter().map(|(name, seconds)| format!("  {name}: {seconds:.1} s")));
        lines.push(total_text(app, &phases, output));
        lines.join("\n")
    });
}
