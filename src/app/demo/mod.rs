//! The guided tour: a throw-away PostgreSQL, a local repository, real keys, and each promise kept before your eyes.
//!
//! It goes the way a user goes: `init` writes the configuration, and what follows is done with what was loaded from it.
//! Everything lies in temporary directories that are gone afterwards, whatever happens, unless they are to be kept.

mod chain;
mod keep;
mod months;
mod past;
mod stage;
mod tour;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::host::{Clock, SystemClock};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::steps::bc003::Scale;

use keep::Keeper;
use stage::Stage;
use tour::Tour;

/// How the tour goes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Leave server, repository and keys in this directory, which must be empty or absent.
    pub keep: Option<PathBuf>,
    /// How much data; the demo's own scale, about 55 MB, when absent.
    pub scale: Option<Scale>,
    /// The program that PostgreSQL calls; this one when absent.
    pub program: Option<PathBuf>,
}

/// Something the tour set out to show.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// "dump", "restore equal", "increment", "table restored", "flipped byte found", "PITR", "partitions", "chain",
    /// "tamper alert".
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// How long it took.
    pub seconds: f64,
}

/// Goes on the tour, telling each step as a note. A claim that does not hold is no failure: it is in the answer.
/// Errors when the stage cannot be set up, or `stop` fires.
pub async fn run(options: &Options, events: Events, stop: CancellationToken) -> Result<Vec<Claim>, Failure> {
    let keeper = options.keep.as_deref().map(Keeper::new).transpose()?;
    let guide = Guide { clock: Arc::new(SystemClock::new()), events, stop };
    let scale = options.scale.unwrap_or_else(|| Scale::demo(stage::first_month(guide.clock.now())));
    let stage = Stage::build(scale, options.program.as_deref(), &guide).await?;
    let claims = Tour::new(&stage, &guide).go().await?;
    match keeper {
        Some(keeper) => keeper.keep(stage, &guide).await?,
        None => clear_away(stage, &guide).await?,
    }
    Ok(claims)
}

async fn clear_away(stage: Stage, guide: &Guide) -> Result<(), Failure> {
    guide.events.step("clearing the stage away");
    guide.blocking("clear the stage away", move || drop(stage)).await
}

/// What everybody on the tour carries.
struct Guide {
    clock: Arc<dyn Clock>,
    events: Events,
    stop: CancellationToken,
}

impl Guide {
    fn require_going_on(&self) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            return Err(stopped());
        }
        Ok(())
    }

    /// What `work` gives, unless the tour is stopped first; then `work` is dropped.
    async fn unless_stopped<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::select! {
            done = work => {
                self.require_going_on()?;
                done
            }
            () = self.stop.cancelled() => Err(stopped()),
        }
    }

    /// Runs `work`, which blocks, to its end.
    async fn blocking<T: Send + 'static>(
        &self,
        what: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        tokio::task::spawn_blocking(work).await.map_err(|error| Failure::new(FailureKind::Failed, what).because(error))
    }

    /// Seconds since `began`.
    fn seconds_since(&self, began: std::time::Duration) -> f64 {
        (self.clock.monotonic() - began).as_secs_f64()
    }
}

fn stopped() -> Failure {
    Failure::new(FailureKind::Failed, "go on with the demo: it was told to stop").hint("Everything it made is removed.")
}
