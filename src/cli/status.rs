//! `dbagent status`: what can be restored now, job by job and repository by repository.

use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, tables};
use crate::model::chain_status::CalendarStatus;
use crate::model::cost::CostState;
use crate::model::drill::{DrillState, DrillStatus};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Severity};
use crate::model::size::ByteSize;
use crate::model::status::{CopyStatus, Freshness, JobStatus, LastResult, RepositoryStatus, StatusModel, WalStatus};
use crate::model::status::{age, level_in_words};
use crate::model::wal::SegmentName;
use crate::model::window::{WindowSpan, WindowStatus};

/// Shows the status. Exit code 0 when it is green, 3 otherwise.
pub async fn run(app: &App, output: &Output) -> Result<Code, Failure> {
    let model = app.status(&app.setting(Events::nowhere(), CancellationToken::new())).await?;
    output.result(&model, || text(&model, output));
    Ok(if model.green { 0 } else { FailureKind::Findings.exit_code() })
}

fn text(model: &StatusModel, output: &Output) -> String {
    let tone = if model.green { Tone::Good } else { Tone::Bad };
    let mut parts = vec![output.paint(tone, &model.headline)];
    parts.extend(model.recovery.rpo());
    let copies: Vec<_> = model.jobs.iter().flat_map(|job| copy_rows(job, output)).collect();
    if !copies.is_empty() {
        parts.push(tables::table(&["job", "repository", "as of", "age", "size", "checked", "state"], copies));
    }
    let jobs: Vec<_> = model.jobs.iter().map(|job| job_row(job, model, output)).collect();
    if !jobs.is_empty() {
        parts.push(tables::table(&["job", "verb", "next", "last run"], jobs));
    }
    let repositories = model.repositories.iter().map(|repository| repository_row(repository, output)).collect();
    parts.push(tables::table(&["repository", "artifacts", "size", "oldest", "newest", "state"], repositories));
    if !model.recovery.windows.is_empty() {
        let rows = model.recovery.windows.iter().flat_map(|window| window_rows(window, output)).collect();
        let columns = ["recovery on timeline", "repository", "from", "to", "base backups", "state"];
        parts.push(tables::table(&columns, rows));
    }
    if !model.wal.is_empty() {
        let rows = model.wal.iter().map(|wal| wal_row(wal, output)).collect();
        parts.push(tables::table(&["WAL of timeline", "repository", "from", "to", "stored", "state"], rows));
    }
    if let Some(chain) = &model.chain {
        let tone = if chain.complaints(model.at).is_empty() { Tone::Good } else { Tone::Bad };
        let alerts = chain.open_alerts.map_or("unknown".to_owned(), |count| count.to_string());
        parts.push(format!("audit chain: {}; open alerts {alerts}", output.paint(tone, &chain.line(model.at))));
    }
    if !model.partitions.is_empty() {
        let rows = model.partitions.iter().map(|calendar| calendar_row(calendar, output)).collect();
        parts.push(tables::table(&["months of", "partitions", "ahead", "rows in default", "past retention"], rows));
    }
    parts.extend(model.drills.iter().filter_map(|drill| drill_text(drill, output)));
    parts.extend(model.cost.iter().map(|cost| {
        let tone = if cost.state() == CostState::Within { Tone::Faint } else { Tone::Warning };
        output.paint(tone, &format!("storage: {}", cost.line()))
    }));
    let of_repositories = model.repositories.iter().flat_map(|repository| &repository.findings);
    let findings: Vec<_> = model.recovery.findings.iter().chain(of_repositories).collect();
    parts.extend(findings.into_iter().map(|finding| finding_text(finding, output)));
    parts.extend(model.history_unreadable.iter().map(|why| output.paint(Tone::Bad, &format!("failed to {why}"))));
    parts.join("\n\n")
}

/// A drill that is not due is no news.
fn drill_text(drill: &DrillStatus, output: &Output) -> Option<String> {
    let tone = match drill.state {
        DrillState::Current => return None,
        DrillState::Due => Tone::Warning,
        DrillState::Overdue | DrillState::Unknown => Tone::Bad,
    };
    let remedy = "where the private key is: dbagent backup verify latest --deep";
    Some(format!("{}\n  remedy: {remedy}", output.paint(tone, &format!("decrypt drill: {}", drill.line()))))
}

fn copy_rows(job: &JobStatus, output: &Output) -> Vec<Vec<String>> {
    let copies = job.dump.iter().flat_map(|dump| &dump.copies);
    copies.map(|copy| copy_row(&job.name, copy, output)).collect()
}

fn copy_row(job: &str, copy: &CopyStatus, output: &Output) -> Vec<String> {
    let state = match copy.freshness {
        Freshness::Current => output.paint(Tone::Good, "current"),
        Freshness::Overdue => output.paint(Tone::Bad, "overdue"),
        Freshness::Missing => output.paint(Tone::Bad, "no verified backup"),
        Freshness::Unknown => output.paint(Tone::Bad, "unknown"),
    };
    let mut row = vec![job.to_owned(), copy.repository.clone()];
    match &copy.newest {
        Some(good) => {
            let checked = format!("{} {}", level_in_words(good.verified.level), tables::instant(good.verified.at));
            let size = ByteSize(good.stored_bytes).to_string();
            row.extend([tables::instant(good.as_of), age(good.age_seconds), size, checked]);
        }
        None => row.extend(["-"; 4].map(str::to_owned)),
    }
    row.push(state);
    row
}

fn job_row(job: &JobStatus, model: &StatusModel, output: &Output) -> Vec<String> {
    let next = match (job.built, job.next) {
        (false, _) => "not built yet".to_owned(),
        (true, Some(next)) => tables::instant(next),
        (true, None) => "by hand".to_owned(),
    };
    let last = match &job.last {
        _ if !job.built => String::new(),
        None if model.history_unreadable.is_some() => output.paint(Tone::Bad, "unknown"),
        None => output.paint(Tone::Faint, "none remembered"),
        Some(last) => {
            let tone = match last.result {
                LastResult::Ok => Tone::Good,
                LastResult::Findings | LastResult::Interrupted => Tone::Warning,
                LastResult::Incomplete | LastResult::Failed => Tone::Bad,
            };
            output.paint(tone, &format!("{} {}", tables::instant(last.finished), last.message))
        }
    };
    let running = job.running_since.map(|since| format!(" (running since {})", tables::instant(since)));
    vec![job.name.clone(), job.verb.to_string(), next, format!("{last}{}", running.unwrap_or_default())]
}

fn repository_row(repository: &RepositoryStatus, output: &Output) -> Vec<String> {
    let instant = |instant: Option<_>| instant.map_or("-".to_owned(), tables::instant);
    let (counts, state) = match (&repository.holds, &repository.broken_log, &repository.unreadable) {
        (Some(holds), broken, _) => {
            let counts = [holds.artifacts.to_string(), ByteSize(holds.bytes).to_string()];
            let state = match broken {
                Some(why) => output.paint(Tone::Bad, &format!("failed to {why}")),
                None if repository.is_sound() => output.paint(Tone::Good, "whole"),
                None => output.paint(Tone::Bad, "see below"),
            };
            ([counts[0].clone(), counts[1].clone(), instant(holds.oldest), instant(holds.newest)], state)
        }
        (None, _, why) => {
            let why = why.as_deref().unwrap_or("read it");
            (["-"; 4].map(str::to_owned), output.paint(Tone::Bad, &format!("unknown: failed to {why}")))
        }
    };
    std::iter::once(repository.name.clone()).chain(counts).chain([state]).collect()
}

fn window_rows(window: &WindowStatus, output: &Output) -> Vec<Vec<String>> {
    let row = |span: &WindowSpan| {
        let state = match (span.gap, window.current) {
            (Some(gap), _) => output.paint(Tone::Bad, &format!("ends before {gap}, which is missing")),
            (None, true) => output.paint(Tone::Good, "current"),
            (None, false) => output.paint(Tone::Faint, "left"),
        };
        let instants = [span.from, span.until].map(tables::instant);
        let [from, until] = instants;
        vec![window.timeline.0.to_string(), window.repository.clone(), from, until, span.backups.to_string(), state]
    };
    window.spans.iter().map(row).collect()
}

fn wal_row(wal: &WalStatus, output: &Output) -> Vec<String> {
    let name = |segment: Option<SegmentName>| segment.map_or("-".to_owned(), |segment| segment.to_string());
    let state = match (wal.lost, wal.delayed) {
        (0, 0) => output.paint(Tone::Good, "whole"),
        (0, delayed) => output.paint(Tone::Warning, &format!("{delayed} segments to come")),
        (lost, _) => output.paint(Tone::Bad, &format!("{lost} segments lost")),
    };
    let newest = wal.newest.map_or("-".to_owned(), tables::instant);
    vec![wal.timeline.0.to_string(), wal.repository.clone(), name(wal.first), name(wal.last), newest, state]
}

fn calendar_row(calendar: &CalendarStatus, output: &Output) -> Vec<String> {
    let CalendarStatus { table, partitions, ahead, rows_in_default, overdue, unknown } = calendar;
    if let Some(why) = unknown {
        let unknown = output.paint(Tone::Bad, &format!("unknown: failed to {why}"));
        return vec![table.clone(), unknown, String::new(), String::new(), String::new()];
    }
    let warned = |count: &u64| match count {
        0 => "0".to_owned(),
        count => output.paint(Tone::Warning, &count.to_string()),
    };
    let tone = if calendar.complaint().is_some() { Tone::Bad } else { Tone::Good };
    let ahead = output.paint(tone, &ahead.to_string());
    vec![table.clone(), partitions.to_string(), ahead, warned(rows_in_default), warned(overdue)]
}

pub(super) fn finding_text(finding: &Finding, output: &Output) -> String {
    let tone = if finding.severity == Severity::Critical { Tone::Bad } else { Tone::Warning };
    let remedy = finding.remedy.iter().map(|remedy| format!("\n  remedy: {remedy}"));
    format!("{}: {}{}", output.paint(tone, &finding.severity.to_string()), finding.message, remedy.collect::<String>())
}
