//! When to try again, how long to wait, and when to stop: full jitter, a deadline, a budget.
//!
//! Only `Transient` is tried again. The budget is shared by everything that shares a [`Retrier`], so that a store that
//! is down is not hammered by every operation's own patience. What a store asks for by Retry-After is honoured.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::storage::{StorageError, StorageErrorKind};

/// How patient to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one operation, the first included.
    pub tries: u32,
    /// The longest that the first wait can be; each wait is random below a bound that doubles (full jitter: Brooker,
    /// "Exponential Backoff And Jitter", 2015).
    pub first_wait: Duration,
    /// Where the bound stops doubling.
    pub longest_wait: Duration,
    /// All tries of one operation together; of an upload's part, each part by itself.
    pub deadline: Duration,
    /// The longest a download may give nothing.
    pub idle: Duration,
    /// Bytes per second below which a download counts as stalled, over [`RetryPolicy::idle`] of waiting.
    pub least_rate: u64,
    /// Tries beyond the first that may be open at a time over all operations; a success gives one back.
    pub budget: u32,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 8,
            first_wait: Duration::from_millis(200),
            longest_wait: Duration::from_secs(20),
            deadline: Duration::from_secs(15 * 60),
            idle: Duration::from_secs(30),
            least_rate: 1024,
            budget: 200,
        }
    }
}

/// A policy with what is left of its budget. Clones share the budget.
#[derive(Clone, Debug)]
pub struct Retrier {
    policy: RetryPolicy,
    left: Arc<AtomicU32>,
}

impl Retrier {
    /// A full budget.
    pub fn new(policy: RetryPolicy) -> Self {
        Self { policy, left: Arc::new(AtomicU32::new(policy.budget)) }
    }

    /// The policy.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// Does `work` until it succeeds, fails for good, or patience ends; then the last error, with how often it was
    /// tried.
    pub async fn run<T, F>(&self, mut work: impl FnMut() -> F) -> Result<T, StorageError>
    where
        F: Future<Output = Result<T, StorageError>>,
    {
        let deadline = Instant::now() + self.policy.deadline;
        let mut tried = 0;
        loop {
            let answer = timeout_at(deadline, work()).await.unwrap_or_else(|_| Err(self.late()));
            tried += 1;
            match answer {
                Err(error) if error.is_transient() => self.wait(tried, deadline, error).await?,
                Ok(value) => {
                    self.give_back();
                    return Ok(value);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits before the next try, or hands the error back when there is none.
    pub(super) async fn wait(&self, tried: u32, deadline: Instant, error: StorageError) -> Result<(), StorageError> {
        let wait = self.pause(tried).max(error.retry_after.unwrap_or_default());
        let why = if tried >= self.policy.tries {
            "no more tries"
        } else if Instant::now() + wait >= deadline {
            "no more time"
        } else if !self.take() {
            "too many operations are failing"
        } else {
            tracing::debug!(error = %error, tried, ?wait, "trying again");
            pause_for(wait).await;
            return Ok(());
        };
        let retry_after = error.retry_after;
        let message = format!("{} ({why} after {tried})", error.message);
        let mut last = StorageError::new(error.kind, message).because(error);
        last.retry_after = retry_after;
        Err(last)
    }

    fn pause(&self, tried: u32) -> Duration {
        let doublings = 1_u32.checked_shl(tried.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.policy.first_wait.saturating_mul(doublings).min(self.policy.longest_wait);
        bound.mul_f64(rand::random::<f64>())
    }

    fn late(&self) -> StorageError {
        let message = format!("get an answer within {} s", self.policy.deadline.as_secs_f32());
        StorageError::new(StorageErrorKind::Transient, message)
    }

    fn take(&self) -> bool {
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    fn give_back(&self) {
        let more = |left| (left < self.policy.budget).then_some(left + 1);
        // Full already: nothing to give back.
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }
}

#[expect(clippy::disallowed_methods, reason = "there is no event to wait for: time itself is what a busy store needs")]
async fn pause_for(wait: Duration) {
    tokio::time::sleep(wait).await;
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn busy(retry_after: Option<Duration>) -> StorageError {
        let mut error = StorageError::new(StorageErrorKind::Transient, "ask: busy");
        error.retry_after = retry_after;
        error
    }

    async fn tries(retrier: &Retrier, error: impl Fn() -> StorageError) -> (u32, StorageError) {
        let tried = Cell::new(0);
        let work = || async {
            tried.set(tried.get() + 1);
            Err::<(), _>(error())
        };
        let error = retrier.run(work).await.unwrap_err();
        (tried.get(), error)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_may_go_away_by_itself_is_tried_again() {
        let retrier = Retrier::new(RetryPolicy::default());
        assert_eq!(tries(&retrier, || busy(None)).await.0, 8);
        for kind in [StorageErrorKind::Denied, StorageErrorKind::Exists, StorageErrorKind::Full] {
            assert_eq!(tries(&retrier, || StorageError::new(kind, "x")).await.0, 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_grow_are_random_and_stay_below_their_bound() {
        let retrier = Retrier::new(RetryPolicy::default());
        for (tried, bound) in [(1, 200), (2, 400), (3, 800), (40, 20_000)] {
            let pauses: Vec<_> = (0..200).map(|_| retrier.pause(tried)).collect();
            let most = *pauses.iter().max().unwrap();
            assert!(most <= Duration::from_millis(bound) && most > Duration::from_millis(bound / 2));
            assert!(pauses.iter().any(|pause| *pause < Duration::from_millis(bound / 2)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn f26_what_the_store_asks_for_is_waited_for() {
        let retrier = Retrier::new(RetryPolicy { tries: 2, ..RetryPolicy::default() });
        let begun = Instant::now();
        tries(&retrier, || busy(Some(Duration::from_secs(30)))).await;
        assert!(begun.elapsed() >= Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn neither_deadline_nor_budget_is_overrun() {
        let patient = RetryPolicy { tries: 1000, deadline: Duration::from_secs(60), ..RetryPolicy::default() };
        let begun = Instant::now();
        let (_, error) = tries(&Retrier::new(patient), || busy(None)).await;
        assert!(error.message.contains("no more time") && begun.elapsed() <= Duration::from_secs(60));

        let poor = Retrier::new(RetryPolicy { budget: 3, ..RetryPolicy::default() });
        let (tried, error) = tries(&poor, || busy(None)).await;
        assert_eq!((tried, error.message.contains("too many operations")), (4, true));
        assert_eq!(tries(&poor, || busy(None)).await.0, 1);
        poor.run(|| async { Ok(()) }).await.unwrap();
        assert_eq!(tries(&poor, || busy(None)).await.0, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn f29_work_that_never_answers_ends_at_the_deadline() {
        let policy = RetryPolicy { deadline: Duration::from_secs(60), ..RetryPolicy::default() };
        let error = Retrier::new(policy).run(std::future::pending::<Result<(), _>>).await.unwrap_err();
        assert!(error.is_transient(), "{error:?}");
    }
}
