//! WAL through the running agent: opened doors and files on their way, shared by all requests.

use std::path::Path;
use std::sync::{Arc, PoisonError};

use crate::app::App;
use crate::app::agent::Current;
use crate::app::wal::system_of;
use crate::model::digest::Digest;
use crate::model::failure::Failure;
use crate::model::wal::{Asked, WalFile};
use crate::ops::wal::prefetch::Prefetcher;
use crate::ops::wal::push::Pushed;
use crate::ops::wal::ship::Shipper;
use crate::steps::wal::Fetched;

/// Threads of zstd's own for each file: none, several files at once are shipped side by side.
const HELPERS: u32 = 0;

/// Archives and fetches for other processes. Cheap to clone.
#[derive(Clone)]
pub(super) struct WalService {
    shipper: Shipper,
    prefetcher: Prefetcher,
    current: Current,
}

impl WalService {
    /// Works with the configuration in force at the time of each opening of doors; limits are those of `app`.
    pub(super) fn new(app: &App, current: Current) -> Self {
        let (for_push, for_fetch) = (current.clone(), current.clone());
        let shipper = Shipper::new(
            Arc::new(move || {
                let app = of_now(&for_push);
                Box::pin(async move { app.wal_push_doors(HELPERS).await })
            }),
            app.clock.clone(),
            app.wal_shipped_at_once(),
        );
        let prefetcher = Prefetcher::new(
            Arc::new(move |asked: Asked| {
                let app = of_now(&for_fetch);
                Box::pin(async move { app.wal_fetch_doors(&asked).await })
            }),
            app.clock.clone(),
            app.wal_fetched_at_once(),
            app.loaded.config.wal.prefetch.into(),
        );
        Self { shipper, prefetcher, current }
    }

    /// Whether whoever has `settings` would find something else than this agent; not where it does not tell them.
    pub(super) fn has_other_settings(&self, settings: Option<Digest>) -> Result<bool, Failure> {
        let ours = of_now(&self.current).fetch_settings()?;
        Ok(settings.is_some_and(|theirs| theirs != ours))
    }

    pub(super) async fn push(&self, path: &Path) -> Result<Pushed, Failure> {
        self.shipper.push(path).await
    }

    pub(super) async fn fetch(&self, file: WalFile, place: &Path, asked: &Asked) -> Result<bool, Failure> {
        let fetched = self.prefetcher.fetch(file, place, (system_of(place)?, asked.clone())).await?;
        Ok(fetched == Fetched::There(()))
    }

    /// Whether an archiver's file is on its way.
    pub(super) fn is_busy(&self) -> bool {
        self.shipper.is_busy()
    }
}

/// The configuration in force.
fn of_now(current: &Current) -> App {
    current.read().unwrap_or_else(PoisonError::into_inner).clone()
}
