//! Whether, when and for which repositories a run is tried again.
//!
//! Pure: the random number is a parameter. Backoff is exponential with full jitter (Brooker, "Exponential Backoff
//! and Jitter", AWS Architecture Blog 2015). Integrity, login and usage failures are never tried again: the same
//! bytes, password and arguments give the same answer, and repeating a refused login locks accounts.

use std::time::Duration;

use crate::catalog::history::{RunRecord, RunResult, Trigger};
use crate::model::failure::FailureKind;
use crate::model::id::ArtifactId;
use crate::model::outcome::{Outcome, Verdict};

/// How often a job is tried and how long it waits between attempts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Longest wait before the second attempt; doubles with each further one.
    pub first: Duration,
    /// Longest wait of all.
    pub longest: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 3, first: Duration::from_secs(60), longest: Duration::from_secs(3600) }
    }
}

/// Another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long to wait first.
    pub delay: Duration,
    /// The repositories still without the artifact; empty for all.
    pub only_repositories: Vec<String>,
    /// The artifact they are to receive a copy of, where an attempt made one.
    pub completes: Option<ArtifactId>,
}

/// The attempt that follows the ended run `record`, if one does. `random` is in `0.0..1.0`.
pub fn retry_after(policy: &RetryPolicy, record: &RunRecord, random: f64) -> Option<Retry> {
    let end = record.end.as_ref()?;
    if record.trigger == Trigger::Manual || record.attempt >= policy.attempts {
        return None;
    }
    let again = Retry {
        delay: backoff(policy, record.attempt, random),
        only_repositories: record.only_repositories.clone(),
        completes: record.completes,
    };
    match &end.result {
        RunResult::Interrupted(_) => Some(Retry { delay: Duration::ZERO, ..again }),
        RunResult::Failed(failure) => is_retried(failure.kind).then_some(again),
        RunResult::Done(outcome) => left_over(outcome, again),
    }
}

/// Whether a failure of this kind may go away by itself.
pub fn is_retried(kind: FailureKind) -> bool {
    match kind {
        FailureKind::Failed | FailureKind::LockHeld => true,
        FailureKind::Usage
        | FailureKind::Findings
        | FailureKind::NothingMatches
        | FailureKind::Authentication
        | FailureKind::Integrity
        | FailureKind::OutsideWindow
        | FailureKind::RefusedForSafety => false,
    }
}

/// What of `again` is left to do after `outcome`, nothing if it left nothing.
fn left_over(outcome: &Outcome, again: Retry) -> Option<Retry> {
    match outcome.verdict {
        Verdict::Ok | Verdict::Findings => None,
        Verdict::Failed => Some(again),
        Verdict::Incomplete => {
            let failed = outcome.repositories.iter().filter(|repository| repository.error.is_some());
            let only_repositories = failed.map(|repository| repository.repository.clone()).collect();
            Some(Retry { only_repositories, completes: outcome.artifact.or(again.completes), ..again })
        }
    }
}

/// The wait after attempt number `attempt` (from 1): up to `first`, doubled for each attempt before, at most `longest`.
fn backoff(policy: &RetryPolicy, attempt: u32, random: f64) -> Duration {
    let doubled = 2_u32.checked_pow(attempt.saturating_sub(1)).and_then(|factor| policy.first.checked_mul(factor));
    doubled.unwrap_or(policy.longest).min(policy.longest).mul_f64(random.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::catalog::history::{Interruption, RecordedFailure};
    use crate::model::id::RunId;
    use crate::model::outcome::RepositoryOutcome;
    use crate::model::verb::Verb;

    fn record(attempt: u32, trigger: Trigger, result: RunResult) -> RunRecord {
        let now = "2026-03-10T03:00:00Z".parse().unwrap();
        let run = RunRecord {
            run: RunId::new(now),
            job: "full".to_owned(),
            verb: Verb::Dump,
            trigger,
            scheduled: now,
            started: now,
            attempt,
            missed: 0,
            only_repositories: vec!["s3".to_owned()],
            completes: None,
            end: None,
        };
        run.ended(now, result)
    }

    fn failed(kind: FailureKind) -> RunResult {
        RunResult::Failed(RecordedFailure { kind, message: "dump".to_owned(), hint: None })
    }

    #[test]
    fn only_what_may_go_away_by_itself_is_tried_again() {
        let policy = RetryPolicy::default();
        for kind in FailureKind::ALL {
            let expected = matches!(kind, FailureKind::Failed | FailureKind::LockHeld);
            let retry = retry_after(&policy, &record(1, Trigger::Schedule, failed(kind)), 0.5);
            assert_eq!(retry.is_some(), expected, "{kind:?}");
        }
    }

    #[test]
    fn the_last_attempt_a_manual_run_and_a_run_without_an_end_are_not_tried_again() {
        let policy = RetryPolicy::default();
        let refused = [
            record(3, Trigger::Retry, failed(FailureKind::Failed)),
            record(1, Trigger::Manual, failed(FailureKind::Failed)),
        ];
        assert!(refused.iter().all(|record| retry_after(&policy, record, 0.5).is_none()));
        let running = RunRecord { end: None, ..record(1, Trigger::Schedule, failed(FailureKind::Failed)) };
        assert_eq!(retry_after(&policy, &running, 0.5), None);
    }

    #[test]
    fn an_interrupted_run_is_tried_again_at_once_with_what_it_was_asked_for() {
        let record = record(1, Trigger::CatchUp, RunResult::Interrupted(Interruption::AgentDied));
        let retry = retry_after(&RetryPolicy::default(), &record, 0.9).unwrap();
        assert_eq!((retry.delay, retry.only_repositories), (Duration::ZERO, vec!["s3".to_owned()]));
    }

    #[test]
    fn an_outcome_is_tried_again_for_what_it_left() {
        let place = |name: &str, error: Option<&str>| RepositoryOutcome {
            repository: name.to_owned(),
            error: error.map(str::to_owned),
            stored_bytes: 0,
        };
        let left = |verdict| {
            let repositories = vec![place("local", None), place("far", Some("reach it"))];
            let outcome = Outcome { verdict, repositories, ..Outcome::ok("done") };
            let record = record(1, Trigger::Schedule, RunResult::Done(outcome));
            retry_after(&RetryPolicy::default(), &record, 0.5).map(|retry| retry.only_repositories.join(" "))
        };
        assert_eq!((left(Verdict::Ok), left(Verdict::Findings)), (None, None));
        assert_eq!(
            (left(Verdict::Incomplete).unwrap(), left(Verdict::Failed).unwrap()),
            ("far".to_owned(), "s3".to_owned())
        );
    }

    proptest! {
        #[test]
        fn a_wait_never_exceeds_its_bound_and_never_overflows(attempt in 1_u32..u32::MAX, random in 0.0..1.0) {
            let policy = RetryPolicy { attempts: u32::MAX, ..RetryPolicy::default() };
            let wait = backoff(&policy, attempt, random);
            let bound = policy.first.as_secs_f64() * 2_f64.powf(f64::from(attempt - 1));
            prop_assert!(wait <= policy.longest && wait.as_secs_f64() <= bound * random + 1e-6);
        }
    }
}
