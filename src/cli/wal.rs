//! `dbagent wal`: what PostgreSQL calls for each file, and what people ask of the archive.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::app::wal::{Survey, TimelineSurvey, survey_findings};
use crate::catalog::wal::Coverage;
use crate::cli::arguments::Wal;
use crate::cli::output::Output;
use crate::cli::status::finding_text;
use crate::cli::{Code, tables};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Severity};
use crate::model::size::ByteSize;
use crate::model::wal::{Asked, WalFile};
use crate::ops::wal;

/// Exit code of a fetch of a file that is proven not to be there.
const NOT_THERE: Code = 1;

/// Carries out one of the subcommands.
pub async fn run(app: &App, command: &Wal, output: &Output) -> Result<Code, Failure> {
    match command {
        Wal::Push { path } => push(app, path, output).await,
        Wal::Fetch { name, destination, repository, believe, within, through } => {
            let asked = match (repository, believe) {
                (Some(only), _) => Asked::Only(only.clone()),
                (None, Some(believed)) => Asked::Believing(believed.clone()),
                (None, None) => Asked::All,
            };
            let file = wal_file(name)?;
            let there = app.wal_fetch(file, &absolute(destination)?, &asked, *within, *through).await?;
            output.result(&json!({ "file": file, "found": there }), String::new);
            Ok(if there { 0 } else { NOT_THERE })
        }
        Wal::Sync => sync(app, output).await,
        Wal::List => list(app, output).await,
        Wal::Verify => verify(app, output).await,
    }
}

/// Silent when all is well: PostgreSQL writes what is said here into its log.
async fn push(app: &App, path: &Path, output: &Output) -> Result<Code, Failure> {
    let pushed = app.wal_push(&absolute(path)?).await?;
    output.result(&pushed, String::new);
    Ok(0)
}

fn wal_file(name: &str) -> Result<WalFile, Failure> {
    name.parse().map_err(|error| {
        Failure::new(FailureKind::Usage, format!("fetch {name}"))
            .because(error)
            .hint("Give the name as PostgreSQL does: restore_command = 'dbagent wal fetch \"%f\" \"%p\"'.")
    })
}

/// PostgreSQL gives paths below its data directory, in which it runs the command.
fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("find {}", path.display())).because(error))
}

async fn sync(app: &App, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(Events::nowhere(), CancellationToken::new());
    let outcome = wal::sync::run(&app.wal_sync_doors().await?, &setting).await?;
    output.result(&outcome, || text(&outcome.summary, &outcome.findings, output));
    Ok(code(&outcome.findings))
}

async fn verify(app: &App, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(Events::nowhere(), CancellationToken::new());
    let doors = app.wal_sync_doors().await?;
    let outcome = wal::sync::run(&doors, &setting).await?;
    let found = doors.survey(&setting).await;
    let read = wal::verify::read_back(&found, &doors, &setting).await?;
    let findings: Vec<Finding> = outcome.findings.into_iter().chain(read.findings).collect();
    let summary = format!("{}; {} files ({}) read back", outcome.summary, read.files, ByteSize(read.bytes));
    let result =
        json!({ "files": read.files, "bytes": read.bytes, "timelines": timelines(&found), "findings": findings });
    output.result(&result, || text(&summary, &findings, output));
    Ok(code(&findings))
}

async fn list(app: &App, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(Events::nowhere(), CancellationToken::new());
    let doors = app.wal_sync_doors().await?;
    let found = doors.survey(&setting).await;
    let mut findings = survey_findings(&found);
    findings.extend(doors.unopened.iter().map(|(name, failure)| {
        let message = format!("repository {name} cannot be opened: {}", failure.full_message());
        Finding::new(Severity::Critical, "wal-repository", message)
    }));
    output.result(&json!({ "timelines": timelines(&found), "findings": findings }), || {
        let rows: Vec<_> = found.timelines.iter().flat_map(rows).collect();
        let table = match rows.is_empty() {
            true => "no WAL is stored yet".to_owned(),
            false => {
                tables::table(&["timeline", "repository", "from", "to", "segments", "size", "newest", "missing"], rows)
            }
        };
        text(&table, &findings, output)
    });
    Ok(code(&findings))
}

/// A row for each range without a gap; what is missing stands behind the first.
fn rows(timeline: &TimelineSurvey) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (repository, coverage) in &timeline.held {
        let missing = timeline.missing.iter().filter(|missing| missing.repository == *repository);
        let missing: u64 = missing.map(|missing| missing.range.count(coverage.size)).sum();
        for (at, range) in coverage.ranges.iter().enumerate() {
            let of_all = |text: String| if at == 0 { text } else { String::new() };
            rows.push(vec![
                timeline.timeline.0.to_string(),
                repository.clone(),
                range.first.to_string(),
                range.last.to_string(),
                range.count(coverage.size).to_string(),
                of_all(ByteSize(coverage.bytes).to_string()),
                of_all(coverage.newest.map_or("-".to_owned(), tables::instant)),
                of_all(if missing == 0 { "none".to_owned() } else { missing.to_string() }),
            ]);
        }
    }
    rows
}

fn timelines(found: &Survey) -> Vec<Value> {
    let held = |(repository, coverage): &(String, Coverage)| {
        json!({
            "repository": repository, "ranges": coverage.ranges, "others": coverage.others, "bytes": coverage.bytes,
            "newest": coverage.newest,
        })
    };
    let each = |timeline: &TimelineSurvey| {
        let held: Vec<_> = timeline.held.iter().map(held).collect();
        json!({ "timeline": timeline.timeline, "eras": timeline.eras, "held": held, "missing": timeline.missing })
    };
    found.timelines.iter().map(each).collect()
}

fn text(summary: &str, findings: &[Finding], output: &Output) -> String {
    let told = findings.iter().map(|finding| finding_text(finding, output));
    std::iter::once(summary.to_owned()).chain(told).collect::<Vec<_>>().join("\n")
}

fn code(findings: &[Finding]) -> Code {
    if findings.is_empty() { 0 } else { FailureKind::Findings.exit_code() }
}
