//! The clock: wall time for people, monotonic time for waiting, and the only sleep.
//!
//! Must not decide anything; schedules and deadlines belong to their rooms. [`ManualClock`] lets a test live through
//! years in a moment: its wall clock can also be stepped back, as an administrator or NTP may do.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use tokio::sync::watch;

/// What time it is, and waiting for a later one.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync {
    /// Wall time; may jump in both directions.
    fn now(&self) -> DateTime<Utc>;

    /// Time since an origin of the clock's own; never goes back.
    fn monotonic(&self) -> Duration;

    /// Waits until [`Clock::monotonic`] has grown by `duration`. May be dropped at any time.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Clone, Debug)]
pub struct SystemClock {
    origin: Instant,
}

impl SystemClock {
    /// A clock whose monotonic origin is now.
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> DateTime<Utc> {
        Utc::now()
    }

    fn monotonic(&self) -> Duration {
        self.origin.elapsed()
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// A clock that stands still until it is moved. Clones show the same time.
#[derive(Clone, Debug)]
pub struct ManualClock {
    wall: Arc<Mutex<DateTime<Utc>>>,
    elapsed: watch::Sender<Duration>,
    sleepers: watch::Sender<usize>,
}

impl ManualClock {
    /// A clock that shows `now`.
    pub fn at(now: DateTime<Utc>) -> Self {
        let (elapsed, sleepers) = (watch::Sender::new(Duration::ZERO), watch::Sender::new(0));
        Self { wall: Arc::new(Mutex::new(now)), elapsed, sleepers }
    }

    /// Lets `duration` pass on both clocks and wakes whoever slept that long.
    pub fn advance(&self, duration: Duration) {
        *self.wall() += duration;
        self.elapsed.send_modify(|elapsed| *elapsed += duration);
    }

    /// Sets the wall clock, back or forth; monotonic time stands still and nobody wakes.
    pub fn set_wall(&self, now: DateTime<Utc>) {
        *self.wall() = now;
    }

    /// Waits until at least `count` sleepers wait on this clock: the moment at which a test may advance it.
    pub async fn slept_on_by(&self, count: usize) {
        let mut sleepers = self.sleepers.subscribe();
        // The sender lives in `self`, so that waiting cannot end otherwise.
        let _ = sleepers.wait_for(|sleeping| *sleeping >= count).await;
    }

    fn wall(&self) -> MutexGuard<'_, DateTime<Utc>> {
        self.wall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts one sleeper for as long as it lives.
struct Sleeper<'a>(&'a watch::Sender<usize>);

impl<'a> Sleeper<'a> {
    fn new(count: &'a watch::Sender<usize>) -> Self {
        count.send_modify(|sleeping| *sleeping += 1);
        Self(count)
    }
}

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|sleeping| *sleeping -= 1);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.wall()
    }

    fn monotonic(&self) -> Duration {
        *self.elapsed.borrow()
    }

    async fn sleep(&self, duration: Duration) {
        let mut elapsed = self.elapsed.subscribe();
        let due = self.monotonic() + duration;
        let _sleeper = Sleeper::new(&self.sleepers);
        // The sender lives in `self`, so that waiting cannot end otherwise.
        let _ = elapsed.wait_for(|elapsed| *elapsed >= due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noon() -> DateTime<Utc> {
        "2026-11-21T12:00:00Z".parse().unwrap()
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_its_time_has_passed_and_not_before() {
        let clock = ManualClock::at(noon());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move {
                clock.sleep(Duration::from_secs(60)).await;
                clock.now()
            }
        });
        clock.slept_on_by(1).await;
        clock.advance(Duration::from_secs(59));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        assert_eq!(sleeper.await.unwrap(), noon() + Duration::from_secs(60));
    }

    #[tokio::test]
    async fn a_wall_clock_set_back_neither_wakes_nor_delays_a_sleeper() {
        let clock = ManualClock::at(noon());
        let sleep = clock.sleep(Duration::from_secs(1));
        tokio::pin!(sleep);
        assert!(futures_util::poll!(sleep.as_mut()).is_pending());
        clock.set_wall(noon() - Duration::from_secs(3600));
        assert!(futures_util::poll!(sleep.as_mut()).is_pending());
        assert_eq!(clock.monotonic(), Duration::ZERO);
        clock.advance(Duration::from_secs(1));
        sleep.await;
    }
}
