//! `dbagent plan`: the jobs and their next times.

use serde_json::json;

use crate::app::App;
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, tables};
use crate::config::Job;
use crate::model::failure::Failure;

pub fn run(app: &App, output: &Output) -> Result<Code, Failure> {
    let plan = app.plan()?;
    let now = app.clock.now();
    let next = |job: &Job| job.due().filter(|_| job.enabled).and_then(|schedule| schedule.next_after(now));
    let jobs: Vec<_> = plan
        .job
        .iter()
        .map(|(name, job)| {
            json!({
                "name": name, "verb": job.verb, "description": job.description, "schedule": job.schedule,
                "timezone": job.timezone, "enabled": job.enabled, "built": job.is_built(),
                "next": next(job), "keep": job.keep,
            })
        })
        .collect();
    let result =
        json!({"plan": plan.name, "description": plan.description, "jobs": jobs, "warnings": app.loaded.warnings});
    output.result(&result, || {
        let rows = plan.job.iter().map(|(name, job)| {
            let state = match (job.enabled, job.is_built(), next(job)) {
                (false, ..) => output.paint(Tone::Faint, "switched off"),
                (_, false, _) => output.paint(Tone::Warning, "not built yet"),
                (_, _, Some(next)) => tables::instant(next),
                (.., None) => "by hand".to_owned(),
            };
            let schedule = job.schedule.as_ref().map(ToString::to_string).unwrap_or_default();
            let tables = if job.tables.is_empty() { String::new() } else { format!("{} tables", job.tables.len()) };
            vec![name.clone(), job.verb.to_string(), schedule, state, tables]
        });
        let table = tables::table(&["job", "verb", "schedule", "next", "covers"], rows.collect());
        let warnings: Vec<String> = app.loaded.warnings.iter().map(|warning| format!("\nwarning: {warning}")).collect();
        format!("{}: {}\n{table}{}", plan.name, plan.description, warnings.concat())
    });
    Ok(0)
}
