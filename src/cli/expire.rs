//! `dbagent expire`: what would go and why, or doing it.

use serde_json::json;

use crate::app::App;
use crate::cli::arguments::Expire;
use crate::cli::job::{code_of, outcome_text};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, prompt, signals, tables};
use crate::model::failure::Failure;
use crate::ops::expire::{self, Fate, RepositoryPlan};

pub async fn run(app: &App, arguments: &Expire, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let (repositories, unopened) = app.expire_doors().await?;
    let options = app.expire_options()?;
    if arguments.consent.plan {
        let mut plans = Vec::new();
        for repository in &repositories {
            plans.push(expire::plan(repository, &options, &setting).await?);
        }
        show(&plans, output);
        for (name, failure) in &unopened {
            output.talk(&format!("repository {name} cannot be opened: {}", failure.full_message()));
        }
        return Ok(unopened.first().map_or(0, |(_, failure)| failure.kind.exit_code()));
    }
    prompt::require_consent(&arguments.consent, "delete what retention no longer keeps", &app.loaded.config.cluster)?;
    let mut outcome = expire::run(&repositories, &options, &setting).await?;
    expire::note_unopened(&mut outcome, unopened);
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
            "leftovers": plan.leftovers.orphans.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "unfinished_uploads": plan.leftovers.uploads.len(),
            "foreign": plan.leftovers.foreign,
            "checkpoints": plan.checkpoints.map_or(0, |(_, count)| count),
        })
    };
    let result = json!({"repositories": plans.iter().map(json_of).collect::<Vec<_>>()});
    output.result(&result, || plans.iter().map(|plan| text_of(plan, output)).collect::<Vec<_>>().join("\n\n"));
}

fn text_of(plan: &RepositoryPlan, output: &Output) -> String {
    let row = |fate: &Fate| {
        let word = if fate.keep { output.paint(Tone::Good, "keep") } else { output.paint(Tone::Bad, "delete") };
        vec![
            word,
            fate.artifact.name.to_string(),
            tables::instant(fate.artifact.manifest.finished),
            fate.reason.to_string(),
        ]
    };
    let table = tables::table(&["fate", "backup", "finished", "why"], plan.fates.iter().map(row).collect());
    let mut text = format!("repository {} ({})\n{table}", plan.repository.name, plan.repository.storage.place());
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
