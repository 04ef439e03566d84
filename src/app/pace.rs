//! The pace of the last restore on this host, kept in the state directory: what an estimate rests on.
//!
//! Losing it loses an estimate and nothing else; that it cannot be written never fails a restore.

use crate::app::App;
use crate::host::durable;
use crate::model::lsn::Lsn;
use crate::model::pace::{Estimate, Pace};
use crate::ops::recover::{Plan, Restored, Started};

const FILE: &str = "restore-pace.json";
const LIMIT: u64 = 64 << 10;

impl App {
    /// How long `plan` will take, by the last restore of a whole cluster here.
    pub fn estimate(&self, plan: &Plan) -> Option<Estimate> {
        let bytes = durable::read_bounded(&self.loaded.config.state_dir.join(FILE), LIMIT).ok()?;
        let pace: Pace = serde_json::from_slice(&bytes).ok()?;
        pace.estimate(plan.stored_bytes, plan.reach.segments.saturating_mul(plan.base.segment_bytes))
    }

    /// Remembers what a restore took. One that kept files, or went on with an unfinished one, says nothing of others.
    pub fn remember_pace(&self, plan: &Plan, restored: &Restored, started: Option<&Started>) {
        if !restored.whole || restored.kept > 0 {
            return;
        }
        let replayed = started.and_then(|started| started.replayed.as_ref()?.parse::<Lsn>().ok());
        let log_bytes = replayed.map_or(0, |end| end.0.saturating_sub(plan.base.start.0));
        let pace = Pace {
            at: self.clock.now(),
            stored_bytes: plan.stored_bytes,
            seconds: restored.phases.iter().map(|(_, seconds)| seconds).sum(),
            log_bytes,
            log_seconds: started.map_or(0.0, |started| started.seconds),
        };
        let folder = &self.loaded.config.state_dir;
        let written = durable::private_directory(folder)
            .map_err(|error| error.to_string())
            .and_then(|()| serde_json::to_vec(&pace).map_err(|error| error.to_string()))
            .and_then(|bytes| durable::replace(&folder.join(FILE), &bytes).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::info!(error, "how long it took is not remembered");
        }
    }
}
