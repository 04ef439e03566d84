//! What every verb, and every step that takes long, is given besides its own doors.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::host::Clock;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;

/// What every verb is given besides its own doors.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Identity of this run.
    pub run: RunId,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where it tells what it does.
    pub events: Events,
    /// Fires when the run must end: asked to stop, out of time, or no longer the leader.
    pub stop: CancellationToken,
}

impl Setting {
    /// The result of `work`, or a failure as soon as the run must end; `work` is then dropped where it stands.
    pub async fn unless_stopped<T>(
        &self,
        step: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        tokio::select! {
            result = work => result,
            () = self.stop.cancelled() => {
                let failure = Failure::new(FailureKind::Failed, format!("{step}: told to stop"));
                Err(failure.hint("What was half done has been taken back; run it again."))
            }
        }
    }

    /// Errors once the run must end. Called before every step that others can see.
    pub fn require_going_on(&self, step: &str) -> Result<(), Failure> {
        if self.stop.is_cancelled() {
            let message = format!("{step}: the run was told to stop");
            return Err(Failure::new(FailureKind::Failed, message).hint("Nothing was committed; run the job again."));
        }
        Ok(())
    }
}
