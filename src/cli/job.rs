//! `dbagent job`: list, run one now, what ran.

use serde_json::json;

use crate::app::App;
use crate::app::manual::again;
use crate::catalog::history::{self, Filter, Remembered, RunRecord, RunResult};
use crate::cli::arguments::Job;
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, plan, progress, signals, tables};
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Outcome, Verdict};
use crate::model::size::ByteSize;

pub async fn run(app: &App, command: &Job, output: &Output) -> Result<Code, Failure> {
    match command {
        Job::List => plan::run(app, output),
        Job::Run { name } => run_one(app, name, output).await,
        Job::History { name, last } => show_history(app, name.as_deref(), *last, output),
    }
}

async fn run_one(app: &App, name: &str, output: &Output) -> Result<Code, Failure> {
    let record = app.run_manually(name, progress::on_screen(output), signals::stop()).await?;
    match record.end.as_ref().map(|end| &end.result) {
        Some(RunResult::Done(outcome)) => {
            output.result(&json!({"run": record}), || outcome_text(outcome, output));
            Ok(code_of(outcome))
        }
        Some(RunResult::Failed(failure)) => Err(again(failure.kind, failure.message.clone(), failure.hint.clone())),
        Some(RunResult::Interrupted(why)) => {
            Err(Failure::new(FailureKind::Failed, format!("run {name} to its end: {why}")))
        }
        None => Err(Failure::new(FailureKind::Failed, format!("run {name} to its end"))),
    }
}

/// Exit code of an outcome: anything that is not green has findings.
pub fn code_of(outcome: &Outcome) -> Code {
    match outcome.verdict {
        Verdict::Ok => 0,
        Verdict::Findings => FailureKind::Findings.exit_code(),
        Verdict::Incomplete | Verdict::Failed => FailureKind::Failed.exit_code(),
    }
}

/// An outcome for people: the summary, each repository, each finding with its remedy.
pub fn outcome_text(outcome: &Outcome, output: &Output) -> String {
    let mut lines = vec![match outcome.verdict {
        Verdict::Ok => output.paint(Tone::Good, &outcome.summary),
        _ => output.paint(Tone::Warning, &format!("{} ({})", outcome.summary, word(outcome.verdict))),
    }];
    for repository in &outcome.repositories {
        lines.push(match &repository.error {
            None if repository.stored_bytes > 0 => {
                format!("  {}: {}", repository.repository, ByteSize(repository.stored_bytes))
            }
            None => format!("  {}: done", repository.repository),
            Some(error) => format!("  {}: {}", repository.repository, output.paint(Tone::Bad, error)),
        });
    }
    for finding in &outcome.findings {
        lines.push(format!("  {}: {}", output.paint(Tone::Warning, &finding.severity.to_string()), finding.message));
        lines.extend(finding.remedy.iter().map(|remedy| format!("    remedy: {remedy}")));
    }
    lines.extend(outcome.artifact.map(|artifact| format!("  id: {artifact}")));
    lines.join("\n")
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Findings => "with findings",
        Verdict::Incomplete => "incomplete",
        Verdict::Failed => "failed",
    }
}

fn show_history(app: &App, name: Option<&str>, last: usize, output: &Output) -> Result<Code, Failure> {
    let filter = Filter { job: name.map(str::to_owned), limit: Some(last), ..Filter::default() };
    let remembered = history::read(&app.history_folder(), &filter)
        .map_err(|error| Failure::new(FailureKind::Failed, error.to_string()).because(error))?;
    output.result(&json!({"history": remembered}), || {
        let rows = remembered.iter().map(|each| match each {
            Remembered::Run(run) => run_row(run, output),
            Remembered::Skipped(skip) => {
                let what = output.paint(Tone::Warning, &format!("{} skipped: {}", skip.count, skip.reason));
                vec![tables::instant(skip.scheduled), skip.job.clone(), String::new(), String::new(), what]
            }
        });
        tables::table(&["scheduled", "job", "started", "took", "result"], rows.collect())
    });
    Ok(0)
}

fn run_row(run: &RunRecord, output: &Output) -> Vec<String> {
    let result = match run.end.as_ref().map(|end| &end.result) {
        None => output.paint(Tone::Warning, "running, or its agent died"),
        Some(RunResult::Done(outcome)) if outcome.is_green() => output.paint(Tone::Good, &outcome.summary),
        Some(RunResult::Done(outcome)) => {
            output.paint(Tone::Warning, &format!("{} ({})", outcome.summary, word(outcome.verdict)))
        }
        Some(RunResult::Failed(failure)) => output.paint(Tone::Bad, &format!("failed to {}", failure.message)),
        Some(RunResult::Interrupted(why)) => output.paint(Tone::Warning, &why.to_string()),
    };
    let took = run.end.as_ref().map(|end| format!("{} s", (end.finished - run.started).num_seconds()));
    let (scheduled, started) = (tables::instant(run.scheduled), tables::instant(run.started));
    vec![scheduled, run.job.clone(), started, took.unwrap_or_default(), result]
}
