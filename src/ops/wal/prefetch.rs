//! The agent's side of fetching: while a recovery replays one segment, those after it are on their way.
//!
//! Whole and checked segments wait in memory, at most so many bytes of them. Only what was there is kept: that a segment
//! was missing a moment ago proves nothing now.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use crate::host::failpoint::pass;
use crate::host::{Clock, FailPoint, Incoming};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::SystemId;
use crate::model::wal::{Asked, SegmentName, SegmentSize, WalFile};
use crate::steps::wal::{Fetched, WalDoors, fetch_bytes};

/// Opens the doors of a fetch from these repositories.
pub type OpenDoors = Arc<dyn Fn(Asked) -> BoxFuture<'static, Result<WalDoors, Failure>> + Send + Sync>;

/// How long opened doors are used, and segments wait to be asked for.
const KEPT: Duration = Duration::from_secs(60);
/// Bytes of segments that wait.
const WAITING_BYTES: u64 = 64 << 20;

/// Whose log a recovery follows, where known, and from which repositories.
type Source = (Option<SystemId>, Asked);

/// A segment, or nothing when it was not there or failed to come.
type Waiting = Option<Arc<Vec<u8>>>;

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
    ahead: BTreeMap<(Source, SegmentName), watch::Receiver<Option<Waiting>>>,
    asked: Duration,
}

impl Prefetcher {
    /// Fetches `at_once` segments side by side, at most `ahead` before they are asked for.
    pub fn new(open: OpenDoors, clock: Arc<dyn Clock>, at_once: usize, ahead: u64) -> Self {
        Self { open, clock, ahead, permits: Arc::new(Semaphore::new(at_once.max(1))), state: Arc::default() }
    }

    /// Fetches `file` of `source` to `place`.
    pub async fn fetch(&self, file: WalFile, place: &Path, source: Source) -> Result<Fetched<()>, Failure> {
        let bytes = match self.take_ahead(file, &source).await {
            Some(bytes) => bytes,
            None => match self.fetch_now(file, &source).await? {
                Fetched::There(bytes) => Arc::new(bytes),
                Fetched::NotThere => return Ok(Fetched::NotThere),
            },
        };
        if let (WalFile::Segment(segment), Some(size)) = (file, SegmentSize::new(bytes.len() as u64)) {
            self.look_ahead(segment, size, &source);
        }
        let place = place.to_owned();
        let put = spawn_blocking(move || put(&place, &bytes)).await;
        put.map_err(|error| Failure::new(FailureKind::Failed, "put the file in place").because(error))??;
        Ok(Fetched::There(()))
    }

    async fn fetch_now(&self, file: WalFile, (system, asked): &Source) -> Result<Fetched<Vec<u8>>, Failure> {
        let doors = self.doors(asked).await?;
        let fetched = fetch_bytes(file, *system, &doors, self.clock.now()).await;
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
    async fn take_ahead(&self, file: WalFile, source: &Source) -> Waiting {
        let WalFile::Segment(segment) = file else { return None };
        let mut waiting = {
            let mut state = self.state();
            state.asked = self.clock.monotonic();
            state.ahead.remove(&(source.clone(), segment))?
        };
        let waited = waiting.wait_for(Option::is_some).await.ok()?.clone();
        waited.flatten()
    }

    /// Begins the segments after `segment`, and forgets all others.
    fn look_ahead(&self, segment: SegmentName, size: SegmentSize, source: &Source) {
        let most = self.ahead.min(WAITING_BYTES / size.bytes());
        let next = std::iter::successors(segment.next(size), |segment| segment.next(size));
        let wanted: Vec<_> = next.take(usize::try_from(most).unwrap_or(0)).collect();
        let mut state = self.state();
        state.ahead.retain(|(of, segment), _| of == source && wanted.contains(segment));
        for segment in wanted {
            state.ahead.entry((source.clone(), segment)).or_insert_with(|| self.begin(segment, source.clone()));
        }
    }

    fn begin(&self, segment: SegmentName, source: Source) -> watch::Receiver<Option<Waiting>> {
        let (tell, waiting) = watch::channel(None);
        let fetcher = self.clone();
        tokio::spawn(async move {
            let fetched = async {
                let _permit = fetcher.permits.acquire().await.ok()?;
                // Nobody waits any more: the recovery went another way.
                if tell.is_closed() {
                    return None;
                }
                match fetcher.fetch_now(WalFile::Segment(segment), &source).await {
                    Ok(Fetched::There(bytes)) => Some(Arc::new(bytes)),
                    // Asked for again, by itself, if the recovery comes to it.
                    Ok(Fetched::NotThere) | Err(_) => None,
                }
            };
            tell.send_replace(Some(fetched.await));
            fetcher.forget_idle().await;
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

fn put(place: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error| {
        Failure::new(FailureKind::Failed, format!("write {}", place.display()))
            .because(error)
            .hint("Run the agent as the user that PostgreSQL runs as.")
    };
    let mut incoming = Incoming::beside(place).map_err(failed)?;
    incoming.write_all(bytes).map_err(failed)?;
    pass(FailPoint::WalFetched)?;
    incoming.put().map_err(failed)
}
