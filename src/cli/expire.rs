//! `dbagent expire`: what would go and why, or doing it.

use serde_json::json;

use crate::app::App;
use crate::cli::arguments::Expire;
use crate::cli::job::{code_of, outcome_text};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, prompt, signals, tables};
use crate::model::failure::Failure;
use crate::ops::expire::{self, Fate, RepositoryPlan, WalFate, WalFiles};

pub async fn run(app: &App, arguments: &Expire, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let doors = app.expire_doors().await?;
    let options = app.expire_options()?;
    if arguments.consent.plan {
        let plans = expire::plan(&doors, &options, &setting).await.into_iter().collect::<Result<Vec<_>, _>>()?;
        show(&plans, output);
        for (name, failure) in &doors.unopened {
            output.talk(&format!("repository {name} cannot be opened: {}", failure.full_message()));
        }
        return Ok(doors.unopened.first().map_or(0, |(_, failure)| failure.kind.exit_code()));
    }
    prompt::require_consent(&arguments.consent, "delete what retention no longer keeps", &app.loaded.config.cluster)?;
    let outcome = expire::run(&doors, &options, &setting).await?;
    output.result(&json!({"outcome": outcome}), || outcome_text(&outcome, output));
    Ok(code_of(&outcome))
}

fn show(plans: &[RepositoryPlan], output: &Output) {
    let json_of = |plan: &RepositoryPlan| {
        let fates: Vec<_> = plan.fates.iter().map(|fate| {
            json!({"id": fate.artifact.manifest.id, "name": fate.artifact.name.to_string(), "job": fate.artifact.manifest.job,
                   "keep": fate.keep, "reason": fate.reason.to_string()})
        }).collect();
        json!({
            "repository": plan.repository.name,
            "artifacts": fates,
            "wal": plan.wal.iter().map(wal_json).collect::<Vec<_>>(),
            "leftovers": plan.leftovers.orphans.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "unfinished_uploads": plan.leftovers.uploads.len(),
            "foreign": plan.leftovers.foreign,
            "checkpoints": plan.checkpoints.map_or(0, |(_, count)| count),
        })
    };
    let result = json!({"repositories": plans.iter().map(json_of).collect::<Vec<_>>()});
    output.result(&result, || plans.iter().map(|plan| text_of(plan, output)).collect::<Vec<_>>().join("\n\n"));
}

fn wal_json(fate: &WalFate) -> serde_json::Value {
    let mut json = json!({"files": fate.count(), "keep": fate.keep, "reason": fate.reason.to_string()});
    match fate.files {
        WalFiles::Segments(range, _) => {
            json["timeline"] = json!(range.first.timeline().0);
            json["first"] = json!(range.first);
            json["last"] = json!(range.last);
        }
        WalFiles::One(file) => {
            json["timeline"] = json!(file.timeline().0);
            json["file"] = json!(file);
        }
    }
    json
}

/// Which WAL a fate is of, for people.
fn files(fate: &WalFate) -> String {
    match fate.files {
        WalFiles::Segments(range, _) if range.first == range.last => range.first.to_string(),
        WalFiles::Segments(range, _) => format!("{} to {}", range.first, range.last),
        WalFiles::One(file) => file.to_string(),
    }
}

fn word(keep: bool, output: &Output) -> String {
    if keep { output.paint(Tone::Good, "keep") } else { output.paint(Tone::Bad, "delete") }
}

fn text_of(plan: &RepositoryPlan, output: &Output) -> String {
    let row = |fate: &Fate| {
        vec![
            word(fate.keep, output),
            fate.artifact.name.to_string(),
            tables::instant(fate.artifact.manifest.finished),
            fate.reason.to_string(),
        ]
    };
    let table = tables::table(&["fate", "backup", "finished", "why"], plan.fates.iter().map(row).collect());
    let mut text = format!("repository {} ({})\n{table}", plan.repository.name, plan.repository.storage.place());
    if !plan.wal.is_empty() {
        let row = |fate: &WalFate| {
            vec![word(fate.keep, output), files(fate), fate.count().to_string(), fate.reason.to_string()]
        };
        let rows = plan.wal.iter().map(row).collect();
        text.push_str(&format!("\n{}", tables::table(&["fate", "WAL", "files", "why"], rows)));
    }
    let leftovers = plan.leftovers.count();
    if leftovers > 0 {
        text.push_str(&format!("\n{leftovers} leftovers of dead runs would be cleared away"));
    }
    if let Some((before, count @ 1..)) = plan.checkpoints {
        text.push_str(&format!(
            "\n{count} checkpoints of the audit chain taken before {} would go",
            tables::instant(before)
        ));
    }
    for name in &plan.leftovers.foreign {
        text.push_str(&format!("\nnot ours, left alone: {name}"));
    }
    text
}
