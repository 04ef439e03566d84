//! The agent's side of fetching: while a recovery replays one segment, those after it are on their way.
//!
//! Whole and checked segments wait as files without a name where recovery wants them, at most so many bytes of them. Only
//! what was there is kept: that a segment was missing a moment ago proves nothing now.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::spawn_blocking;

use crate::host::Clock;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::SystemId;
use crate::model::wal::{Asked, SegmentName, SegmentSize, WalFile};
use crate::steps::wal::{Arrived, Fetched, WalDoors, fetch_file};

/// Opens the doors of a fetch from these repositories.
pub type OpenDoors = Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<WalDoors, Failure>> + Send + Sync>;

/// How long opened doors are used, and segments wait to be asked for.
const KEPT: Duration = Duration::from_secs(60);
/// Bytes of segments that wait.
const WAITING_BYTES: u64 = 64 << 20;

/// Whose log a recovery follows, where known, and from which repositories.
type Source = (Option<SystemId>, Asked);

/// What is fetched ahead of a recovery: which segment, to which place.
type Awaited = (Source, PathBuf, SegmentName);

/// Fetches files for a recovery. Cheap to clone.
#[derive(Clone)]
pub struct Prefetcher {
    open: OpenDoors,
    clock: Arc<dyn Clock>,
    ahead: u64,
    permits: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    doors: BTreeMap<Asked, (Arc<WalDoors>, Duration)>,
    /// The segments on their way; nothing comes where one was not there or failed to come.
    ahead: BTreeMap<Awaited, oneshot::Receiver<Arrived>>,
    asked: Duration,
}

impl Prefetcher {
    /// Fetches `at_once` segments side by side, at most `ahead` before they are asked for.
    pub fn new(open: OpenDoors, clock: Arc<dyn Clock>, at_once: usize, ahead: u64) -> Self {
        Self { open, clock, ahead, permits: Arc::new(Semaphore::new(at_once.max(1))), state: Arc::default() }
    }

    /// Fetches `file` of `source` to `place`.
    pub async fn fetch(&self, file: WalFile, place: &Path, source: Source) -> Result<Fetched<()>, Failure> {
        let arrived = match self.take_ahead(file, place, &source).await {
            Some(arrived) => arrived,
            None => match self.fetch_now(file, place, &source).await? {
                Fetched::There(arrived) => arrived,
                Fetched::NotThere => return Ok(Fetched::NotThere),
            },
        };
        if let (WalFile::Segment(segment), Some(size)) = (file, SegmentSize::new(arrived.size()?)) {
            self.look_ahead(segment, size, place, &source);
        }
        let put = spawn_blocking(move || arrived.put()).await;
        put.map_err(|error| Failure::new(FailureKind::Failed, "put the file in place").because(error))??;
        Ok(Fetched::There(()))
    }

    async fn fetch_now(
        &self,
        file: WalFile,
        place: &Path,
        (system, asked): &Source,
    ) -> Result<Fetched<Arrived>, Failure> {
        let doors = self.doors(asked).await?;
        let fetched = fetch_file(file, place, *system, &doors, self.clock.now()).await;
        if fetched.is_err() {
            self.state().doors.remove(asked);
        }
        fetched
    }

    async fn doors(&self, asked: &Asked) -> Result<Arc<WalDoors>, Failure> {
        let now = self.clock.monotonic();
        if let Some((doors, opened)) = self.state().doors.get(asked)
            && *opened + KEPT > now
            && doors.unopened.is_empty()
        {
            return Ok(doors.clone());
        }
        let doors = Arc::new((self.open)(asked.clone()).await?);
        self.state().doors.insert(asked.clone(), (doors.clone(), now));
        Ok(doors)
    }

    /// What was fetched ahead of `file`, once it is there.
    async fn take_ahead(&self, file: WalFile, place: &Path, source: &Source) -> Option<Arrived> {
        let WalFile::Segment(segment) = file else { return None };
        let waiting = {
            let mut state = self.state();
            state.asked = self.clock.monotonic();
            state.ahead.remove(&(source.clone(), place.to_owned(), segment))?
        };
        waiting.await.ok()
    }

    /// Begins the segments after `segment`, and forgets all others.
    fn look_ahead(&self, segment: SegmentName, size: SegmentSize, place: &Path, source: &Source) {
        let most = self.ahead.min(WAITING_BYTES / size.bytes());
        let next = std::iter::successors(segment.next(size), |segment| segment.next(size));
        let next = next.take(usize::try_from(most).unwrap_or(0));
        let wanted: Vec<Awaited> = next.map(|segment| (source.clone(), place.to_owned(), segment)).collect();
        let mut state = self.state();
        state.ahead.retain(|awaited, _| wanted.contains(awaited));
        for awaited in wanted {
            state.ahead.entry(awaited.clone()).or_insert_with(|| self.begin(awaited));
        }
    }

    fn begin(&self, (source, place, segment): Awaited) -> oneshot::Receiver<Arrived> {
        let (tell, waiting) = oneshot::channel();
        let fetcher = self.clone();
        tokio::spawn(async move {
            let Ok(permit) = fetcher.permits.acquire().await else { return };
            // Nobody waits any more: the recovery went another way.
            if tell.is_closed() {
                return;
            }
            // What is not there or fails is asked for again, by itself, if the recovery comes to it.
            if let Ok(Fetched::There(arrived)) = fetcher.fetch_now(WalFile::Segment(segment), &place, &source).await {
                // Dropped, if recovery went another way meanwhile.
                let _ = tell.send(arrived);
                drop(permit);
                fetcher.forget_idle().await;
            }
        });
        waiting
    }

    /// Lets go of what waits when nobody has asked for a while.
    async fn forget_idle(&self) {
        self.clock.sleep(KEPT).await;
        let mut state = self.state();
        if state.asked + KEPT <= self.clock.monotonic() {
            state.ahead.clear();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
