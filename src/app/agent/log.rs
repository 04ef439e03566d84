//! What the scheduler tells, as log lines.

use tokio::sync::mpsc;

use crate::catalog::history::{RunRecord, RunResult};
use crate::model::event::Event;
use crate::model::outcome::Verdict;
use crate::scheduler::AgentEvent;

/// Writes every event until the scheduler is gone.
pub(super) async fn write(mut told: mpsc::UnboundedReceiver<AgentEvent>) {
    while let Some(event) = told.recv().await {
        line(&event);
    }
}

fn line(event: &AgentEvent) {
    match event {
        AgentEvent::Started { record } => {
            tracing::info!(job = record.job, run = %record.run, attempt = record.attempt, "started");
        }
        AgentEvent::Progress { job, event, .. } => progress(job, event),
        AgentEvent::Finished { record } => finished(record),
        other => match serde_json::to_string(other) {
            Ok(text) => tracing::info!(event = text, "agent"),
            Err(error) => tracing::error!(%error, "cannot write an event"),
        },
    }
}

fn progress(job: &str, event: &Event) {
    match event {
        Event::Step { text } => tracing::info!(job, "{text}"),
        Event::Note { text } => tracing::warn!(job, "{text}"),
        Event::Found { finding } => tracing::warn!(job, code = finding.code, "{}", finding.message),
        Event::Progress { bytes, rows, .. } => tracing::debug!(job, bytes, rows, "progress"),
    }
}

fn finished(record: &RunRecord) {
    let (job, run) = (&record.job, record.run);
    match record.end.as_ref().map(|end| &end.result) {
        Some(RunResult::Done(outcome)) if outcome.verdict == Verdict::Ok => {
            tracing::info!(job, %run, "done: {}", outcome.summary);
        }
        Some(RunResult::Done(outcome)) => {
            for finding in &outcome.findings {
                tracing::warn!(job, %run, code = finding.code, "{}", finding.message);
            }
            tracing::warn!(job, %run, verdict = ?outcome.verdict, "done: {}", outcome.summary);
        }
        Some(RunResult::Failed(failure)) => {
            tracing::error!(job, %run, hint = failure.hint, "failed to {}", failure.message);
        }
        Some(RunResult::Interrupted(interruption)) => tracing::warn!(job, %run, "interrupted: {interruption}"),
        None => tracing::info!(job, %run, "goes on"),
    }
}
