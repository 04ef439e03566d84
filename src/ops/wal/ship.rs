//! The agent's side of pushing: one request after the other from the archiver, several files at once to the repositories.
//!
//! While the archiver waits for one file, those that are ready after it are shipped too (`archive_status/*.ready`), so
//! that it finds them done when it asks. What was shipped ahead counts only if the file is still the very one that was
//! read: device, inode, size and time of change.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::push::{Doors, Pushed, push};
use crate::host::{Clock, FileIdentity};
use crate::model::failure::{Failure, FailureKind};
use crate::postgres::wal_files;

/// Opens the doors of a push.
pub type OpenDoors = Arc<dyn Fn() -> BoxFuture<'static, Result<Doors, Failure>> + Send + Sync>;

/// How long opened doors are used: a rotated secret counts from then on.
const DOORS_LAST: Duration = Duration::from_secs(60);
/// How long a file that was shipped ahead waits to be asked for.
const KEPT: Duration = Duration::from_secs(600);
/// Names taken from one look at the archive's status.
const NAMES_AT_ONCE: usize = 4096;
/// Files known ahead for each that is shipped at once.
const AHEAD: usize = 4;

/// How a file ended, for everybody who waits for it.
type Ended = Arc<Result<Pushed, Failure>>;

/// Ships files for an archiver. Cheap to clone.
#[derive(Clone)]
pub struct Shipper {
    open: OpenDoors,
    clock: Arc<dyn Clock>,
    at_once: usize,
    permits: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    doors: Option<(Arc<Doors>, Duration)>,
    known: HashMap<PathBuf, Shipment>,
    ready: VecDeque<PathBuf>,
}

/// A file that is on its way or done.
struct Shipment {
    identity: Option<FileIdentity>,
    begun: Duration,
    ended: watch::Receiver<Option<Ended>>,
}

impl Shipper {
    /// Ships `at_once` files side by side through doors that `open` opens.
    pub fn new(open: OpenDoors, clock: Arc<dyn Clock>, at_once: usize) -> Self {
        let permits = Arc::new(Semaphore::new(at_once.max(1)));
        Self { open, clock, at_once: at_once.max(1), permits, state: Arc::default() }
    }

    /// Archives the file `path` (absolute), and begins those that are ready after it.
    pub async fn push(&self, path: &Path) -> Result<Pushed, Failure> {
        let (ended, ahead) = self.wanted(path);
        self.look_ahead(path);
        let first = wait(ended).await;
        self.state().known.remove(path);
        match (first.as_ref(), ahead) {
            (Ok(pushed), None) => Ok(pushed.clone()),
            (Ok(pushed), Some(identity)) if FileIdentity::of(path).ok() == Some(identity) => Ok(pushed.clone()),
            (Err(failure), None) => Err(failure.again()),
            // What was shipped ahead is of no use: the file asked for is another one, or it has failed.
            _ => self.again(path).await,
        }
    }

    async fn again(&self, path: &Path) -> Result<Pushed, Failure> {
        let ended = self.begin(&mut self.state(), path);
        let ended = wait(ended).await;
        self.state().known.remove(path);
        match ended.as_ref() {
            Ok(pushed) => Ok(pushed.clone()),
            Err(failure) => Err(failure.again()),
        }
    }

    /// The shipment of `path`, begun now if need be; with it what the file was, where it was begun before.
    fn wanted(&self, path: &Path) -> (watch::Receiver<Option<Ended>>, Option<FileIdentity>) {
        let mut state = self.state();
        let (now, kept) = (self.clock.monotonic(), KEPT);
        state.known.retain(|_, shipment| shipment.begun + kept > now);
        if let Some(Shipment { identity: Some(identity), ended, .. }) = state.known.get(path) {
            return (ended.clone(), Some(*identity));
        }
        (self.begin(&mut state, path), None)
    }

    fn begin(&self, state: &mut State, path: &Path) -> watch::Receiver<Option<Ended>> {
        let (tell, ended) = watch::channel(None);
        let identity = FileIdentity::of(path).ok();
        let shipment = Shipment { identity, begun: self.clock.monotonic(), ended: ended.clone() };
        state.known.insert(path.to_owned(), shipment);
        let (shipper, path) = (self.clone(), path.to_owned());
        tokio::spawn(async move {
            let result = shipper.ship(&path).await;
            tell.send_replace(Some(Arc::new(result)));
        });
        ended
    }

    async fn ship(&self, path: &Path) -> Result<Pushed, Failure> {
        let stopping = |error| Failure::new(FailureKind::Failed, "archive: the agent is stopping").because(error);
        let _permit = self.permits.acquire().await.map_err(stopping)?;
        let doors = self.doors().await?;
        let pushed = push(path, &doors, self.clock.as_ref()).await;
        if let Err(failure) = &pushed {
            tracing::error!(file = %path.display(), error = failure.full_message(), "not archived");
            self.state().doors = None;
        }
        pushed
    }

    async fn doors(&self) -> Result<Arc<Doors>, Failure> {
        let now = self.clock.monotonic();
        if let Some((doors, opened)) = &self.state().doors
            && *opened + DOORS_LAST > now
            && doors.unopened.is_empty()
        {
            return Ok(doors.clone());
        }
        let doors = Arc::new((self.open)().await?);
        self.state().doors = Some((doors.clone(), now));
        Ok(doors)
    }

    /// Begins files that are ready to be archived and come after `path`, as many as may be ahead.
    fn look_ahead(&self, path: &Path) {
        let Some(folder) = path.parent() else { return };
        let mut state = self.state();
        if state.ready.is_empty() {
            state.ready = ready_after(folder, path);
        }
        while state.known.len() <= self.at_once * AHEAD
            && let Some(next) = state.ready.pop_front()
        {
            if !state.known.contains_key(&next) && is_ready(folder, &next) {
                self.begin(&mut state, &next);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a file is on its way.
    pub fn is_busy(&self) -> bool {
        self.state().known.values().any(|shipment| shipment.ended.borrow().is_none())
    }
}

async fn wait(mut ended: watch::Receiver<Option<Ended>>) -> Ended {
    match ended.wait_for(Option::is_some).await.map(|ended| ended.clone()) {
        Ok(Some(ended)) => ended,
        _ => Arc::new(Err(Failure::new(FailureKind::Failed, "archive: the work on the file died"))),
    }
}

/// What PostgreSQL wants archived beside `path`, in its order; nothing where there is no archive's status.
fn ready_after(folder: &Path, path: &Path) -> VecDeque<PathBuf> {
    let mut files = wal_files::ready(folder).unwrap_or_default();
    files.truncate(NAMES_AT_ONCE);
    files.into_iter().map(|file| folder.join(file.to_string())).filter(|ready| ready != path).collect()
}

/// Whether PostgreSQL still wants the file archived.
fn is_ready(folder: &Path, path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy());
    name.and_then(|name| name.parse().ok()).is_some_and(|file| wal_files::is_ready(folder, file))
}
