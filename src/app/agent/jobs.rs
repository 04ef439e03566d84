//! The plan's jobs as the scheduler needs them; those whose verbs are not built yet are left out.

use std::time::Duration;

use crate::app::App;
use crate::config;
use crate::model::failure::Failure;
use crate::model::span::Span;
use crate::scheduler::{CatchUp, Job, RetryPolicy};

/// Longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Jobs of `plan` that this version cannot run.
pub fn unbuilt(plan: &config::Plan) -> Vec<&str> {
    plan.job.iter().filter(|(_, job)| !job.is_built()).map(|(name, _)| name.as_str()).collect()
}

pub(super) fn warn_unbuilt(app: &App) -> Result<(), Failure> {
    let unbuilt = unbuilt(app.plan()?);
    if !unbuilt.is_empty() {
        tracing::warn!(jobs = unbuilt.join(", "), "left out: their verbs are not built yet");
    }
    Ok(())
}

/// Every job that has a schedule, is enabled and can be run.
pub(super) fn of_plan(app: &App) -> Result<Vec<Job>, Failure> {
    let plan = app.plan()?;
    let ours = plan.job.iter().filter(|(_, job)| job.enabled && job.is_built());
    Ok(ours.filter_map(|(name, job)| scheduled(name, job)).collect())
}

fn scheduled(name: &str, job: &config::Job) -> Option<Job> {
    Some(Job {
        name: name.to_owned(),
        verb: job.verb,
        schedule: job.due()?,
        catch_up: match job.catch_up() {
            config::CatchUp::Once => CatchUp::Once,
            config::CatchUp::Each => CatchUp::EachMonth,
            config::CatchUp::None => CatchUp::Skip,
        },
        jitter: job.jitter.map(|span: Span| span.to_duration()).unwrap_or_default(),
        timeout: job.timeout.map(|span| span.to_duration()),
        retry: RetryPolicy {
            attempts: job.retry.attempts,
            first: job.retry.backoff.to_duration(),
            longest: LONGEST_WAIT,
        },
        side: job.side(),
    })
}
