//! A base backup through pg_basebackup, where the data directory is not here: its one stream is cut into the same parts.
//!
//! One part after the other, straight from the program's output, with no copy in between. The label, the control file and
//! PostgreSQL's own manifest are taken out of the stream: the first two go into the last part, as always, and the third
//! says where the backup ends. A page that fails cannot be read again here: the server is asked for it.

use std::convert::Infallible;
use std::fmt;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use xxhash_rust::xxh3::Xxh3;

use crate::host::{
    AssembledSource, Assembly, Child, ChildSpec, Messages, Source as _, SourceError, SourceFeeder, Stopper,
};
use crate::model::base::{BACKUP_LABEL, BackupLabel, CONTROL_FILE, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{Encoding, ObjectRole};
use crate::model::outcome::{Finding, Severity};
use crate::model::wal::{SegmentName, SegmentSize};
use crate::ops::base_backup::basis::Basis;
use crate::ops::base_backup::log::NOT_ARCHIVED;
use crate::ops::base_backup::parts::{Ending, Parts};
use crate::ops::base_backup::plan::MOST_ENTRIES;
use crate::ops::base_backup::reading::{PageCheck, PartReport};
use crate::ops::base_backup::second_look::{self, Suspects, Unseen};
use crate::ops::base_backup::window::{WINDOW_BYTES, Window};
use crate::ops::base_backup::{Taken, Work};
use crate::pipeline::ustar::{self, Member, Reader};
use crate::postgres::file_tree::{Entry, is_left_out};
use crate::postgres::pg_basebackup::{self, MANIFEST, ManifestTail};
use crate::postgres::{ChildEnvironment, ClientTools, Connection, Stopped};

/// Largest label or control file, in bytes.
const KEPT_LIMIT: usize = 1 << 20;

/// Longest silence of pg_basebackup, unless the log may take longer: a checkpoint at leisure comes within it.
const NO_PROGRESS: Duration = Duration::from_secs(60 * 60);

/// A warning of the server's that comes with waiting.
const STILL_ARCHIVING: &str = "still waiting for all required WAL segments to be archived";

/// Parts after which they become twice as large, so that a manifest can list them.
const PARTS_OF_A_SIZE: u32 = 2000;

/// How a cluster is reached whose data directory is not here.
#[derive(Clone)]
pub struct Remote {
    /// Finds a login with REPLICATION; asked only when it is needed.
    pub login: Arc<dyn Fn() -> Result<Connection, Failure> + Send + Sync>,
    /// Where pg_basebackup is; searched for when absent.
    pub bin_directory: Option<PathBuf>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("bin_directory", &self.bin_directory).finish_non_exhaustive()
    }
}

/// What is taken out of the stream.
#[derive(Default)]
struct Kept {
    label: Vec<u8>,
    control: Vec<u8>,
    manifest: ManifestTail,
}

/// The archive that pg_basebackup writes.
struct Stream {
    reader: Reader<Child>,
    next: Option<Member>,
    kept: Kept,
    /// Whether everything has come but the manifest, which the server gives only when its log is archived.
    at_end: watch::Sender<bool>,
}

impl Stream {
    /// Reads up to the first file that is passed on: blocks until the server has made its checkpoint.
    fn begin(child: Child) -> io::Result<Self> {
        let at_end = watch::Sender::new(false);
        let mut stream = Self { reader: Reader::new(child), next: None, kept: Kept::default(), at_end };
        stream.advance()?;
        Ok(stream)
    }

    /// Goes on to the next member that is passed on.
    fn advance(&mut self) -> io::Result<()> {
        self.next = None;
        while let Some(member) = self.reader.next_member()? {
            // The control file comes last, and the end of it may wait in the program's buffer.
            self.at_end.send_replace(member.path == CONTROL_FILE);
            match member.path.as_str() {
                BACKUP_LABEL => self.kept.label = self.read_whole()?,
                CONTROL_FILE => self.kept.control = self.read_whole()?,
                TABLESPACE_MAP => {}
                MANIFEST => self.read_manifest()?,
                path if is_left_out(path) => {}
                _ => {
                    self.next = Some(member);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn read_whole(&mut self) -> io::Result<Vec<u8>> {
        let (mut bytes, mut window) = (Vec::new(), vec![0; 8192]);
        loop {
            match self.reader.read_content(&mut window)? {
                0 => return Ok(bytes),
                count if bytes.len() + count <= KEPT_LIMIT => bytes.extend_from_slice(&window[..count]),
                _ => return Err(io::Error::other("its label or control file is too large")),
            }
        }
    }

    fn read_manifest(&mut self) -> io::Result<()> {
        let mut window = vec![0; WINDOW_BYTES];
        loop {
            match self.reader.read_content(&mut window)? {
                0 => return Ok(()),
                count => self.kept.manifest.take(&window[..count]),
            }
        }
    }

    /// Errors unless the program has ended well after the end of its archive. Gives what it said, too.
    fn end(self) -> io::Result<(Kept, Messages)> {
        let child = self.reader.into_source()?;
        let messages = child.messages();
        Box::new(child).finish().map_err(io::Error::other)?;
        Ok((self.kept, messages))
    }
}

/// Passes on the files of one part.
struct StreamPart {
    stream: Arc<Mutex<Stream>>,
    number: u32,
    target: u64,
    check: Option<PageCheck>,
    report: Arc<Mutex<PartReport>>,
    suspects: Arc<Mutex<Suspects>>,
    state: State,
    entries: usize,
    bytes: u64,
    window: Window,
}

enum State {
    Between,
    Within(Box<Current>),
    Ended,
}

struct Current {
    entry: Entry,
    size: u64,
    read: u64,
    hasher: Xxh3,
}

impl StreamPart {
    fn new(stream: Arc<Mutex<Stream>>, number: u32, target: u64, check: Option<PageCheck>) -> Self {
        Self {
            stream,
            number,
            target,
            check,
            report: Arc::default(),
            suspects: Arc::default(),
            state: State::Between,
            entries: 0,
            bytes: 0,
            window: Window::new(),
        }
    }

    fn advance(&mut self) -> io::Result<bool> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(false),
            State::Within(current) => self.read_on(current).map(|()| true),
            State::Between => {
                let full = self.bytes >= self.target || self.entries >= MOST_ENTRIES;
                let next = if full { None } else { lock(&self.stream).next.take() };
                match next {
                    Some(member) => self.begin(member)?,
                    None => self.window.put(&ustar::end()),
                }
                Ok(true)
            }
        }
    }

    fn begin(&mut self, member: Member) -> io::Result<()> {
        self.window.put(&member.header());
        self.entries += 1;
        let (mode, modified, size) = (member.mode, member.modified, member.size);
        let entry = Entry::of(member.path, size, mode, modified);
        self.state = match size {
            Some(size) => State::Within(Box::new(Current { entry, size, read: 0, hasher: Xxh3::new() })),
            None => {
                lock(&self.report).line(self.number, &entry, None, None);
                lock(&self.stream).advance()?;
                State::Between
            }
        };
        Ok(())
    }

    fn read_on(&mut self, mut current: Box<Current>) -> io::Result<()> {
        let left = current.size - current.read;
        if left == 0 {
            self.window.put(&vec![0; ustar::padding(current.size)]);
            let content = Some((current.size, Some(current.hasher.digest128())));
            lock(&self.report).line(self.number, &current.entry, content, None);
            self.bytes += current.size;
            lock(&self.stream).advance()?;
            self.state = State::Between;
            return Ok(());
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        let room = self.window.room(wanted);
        fill(&self.stream, room)?;
        second_look::verify((&self.report, &self.suspects), self.check, &current.entry, current.read, room);
        current.hasher.update(room);
        current.read += wanted as u64;
        self.window.hold(wanted);
        self.state = State::Within(current);
        Ok(())
    }
}

/// Fills `room` from the member that the stream is in.
fn fill(stream: &Mutex<Stream>, room: &mut [u8]) -> io::Result<()> {
    let (mut stream, mut filled) = (lock(stream), 0);
    while filled < room.len() {
        match stream.reader.read_content(&mut room[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => filled += count,
        }
    }
    Ok(())
}

impl Read for StreamPart {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.window.is_given() {
            if buffer.is_empty() || !self.advance()? {
                return Ok(0);
            }
        }
        Ok(self.window.give(buffer))
    }
}

impl Assembly for StreamPart {
    fn require_whole(&self) -> Result<(), SourceError> {
        match self.state {
            State::Ended => Ok(()),
            _ => Err(SourceError::new("a part of pg_basebackup's stream was left before its end")),
        }
    }
}

/// What is shared, also where whoever held it panicked: what is in it stays true.
pub(super) fn lock<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Work<'_> {
    /// The program, ready to run; the login lasts as long as what comes with it.
    async fn command(&self, remote: &Remote) -> Result<(ChildSpec, ChildEnvironment), Failure> {
        if !self.cluster.facts.tablespaces.is_empty() {
            let message =
                "make a base backup through pg_basebackup: the cluster has tablespaces, and one stream holds none";
            return Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
                "Run the agent where the data directory is, and set postgres.data_directory if it does not find it.",
            ));
        }
        let (remote, major) = (remote.clone(), self.cluster.facts.server.major());
        let finding = tokio::task::spawn_blocking(move || {
            let tools = ClientTools::find(remote.bin_directory.as_deref(), major)?;
            Ok::<_, Failure>((tools, (remote.login)()?.child_environment()?))
        });
        let found = finding.await;
        let (tools, environment) =
            found.map_err(|error| Failure::new(FailureKind::Failed, "look for pg_basebackup").because(error))??;
        let program = tools.pg_dump.path.with_file_name("pg_basebackup");
        let label = format!("dbagent {}", self.name);
        let spec = pg_basebackup::base_backup(&program, &environment, &label, self.options.fast_checkpoint);
        Ok((ChildSpec { no_progress: Some(NO_PROGRESS.max(self.options.wal_timeout)), ..spec }, environment))
    }

    /// Ends pg_basebackup once the server, with everything sent, has waited for its log to be archived for longer than that
    /// may take; tells so in `late`.
    async fn bound_end(&self, mut at_end: watch::Receiver<bool>, stopper: &Stopper, late: &AtomicBool) -> Infallible {
        while at_end.wait_for(|at_end| *at_end).await.is_ok() {
            self.setting.events.step("waiting for the server to archive the log of the backup");
            tokio::select! {
                moved = at_end.wait_for(|at_end| !*at_end) => if moved.is_err() { break },
                () = self.setting.clock.sleep(self.options.wal_timeout) => {
                    late.store(true, Ordering::SeqCst);
                    stopper.stop();
                    break;
                }
            }
        }
        std::future::pending().await
    }

    /// That the server did not archive its log.
    fn unarchived(&self, start: &BackupLabel) -> Failure {
        let size = self.cluster.facts.number("wal_segment_size").and_then(SegmentSize::new);
        let first =
            size.map(|size| format!(", from the segment {} on", SegmentName::at(start.timeline, start.start, size)));
        let message = format!(
            "end the base backup: the server did not archive its log{} within {} s",
            first.unwrap_or_default(),
            self.options.wal_timeout.as_secs()
        );
        Failure::new(FailureKind::Failed, message).hint(NOT_ARCHIVED)
    }
}

impl Parts<'_> {
    /// Lets pg_basebackup read the cluster, and sends what it gives.
    pub(super) async fn make_remotely(&self, remote: &Remote) -> Result<Taken, Failure> {
        let work = self.work;
        work.setting.events.step("waiting for pg_basebackup and its checkpoint");
        let commanding = work.command(remote);
        let (spec, _login) = work.setting.unless_stopped("begin the base backup", commanding).await?;
        let child = Child::spawn(&spec).map_err(refused)?;
        let stopper = child.stopper();
        // A run that is dropped must not leave the program waiting for a reader.
        let _killer = stopper.kill_on_drop();
        let beginning = async {
            let begun = tokio::task::spawn_blocking(move || Stream::begin(child)).await;
            begun
                .map_err(|error| Failure::new(FailureKind::Failed, "read pg_basebackup").because(error))?
                .map_err(refused)
        };
        let stream = work.setting.unless_stopped("begin the base backup", beginning).await?;
        let label = String::from_utf8_lossy(&stream.kept.label).into_owned();
        let start = BackupLabel::parse(&label).ok_or_else(|| {
            Failure::new(FailureKind::Failed, "understand what pg_basebackup gives: no label stands first")
        })?;
        let check = work.cluster.page_check(start.start).filter(|_| work.options.verify_pages);
        work.setting.events.step("copying what pg_basebackup gives");
        let late = AtomicBool::new(false);
        let bounding = work.bound_end(stream.at_end.subscribe(), &stopper, &late);
        let taken = tokio::select! {
            taken = self.with_list(|feeder| self.cut(stream, (&start, label), check, feeder)) => taken,
            never = bounding => match never {},
        };
        taken.map_err(|failure| if late.load(Ordering::SeqCst) { work.unarchived(&start) } else { failure })
    }

    /// Cuts the stream into parts and ends the backup.
    async fn cut(
        &self,
        stream: Stream,
        (start, label): (&BackupLabel, String),
        check: Option<PageCheck>,
        feeder: SourceFeeder,
    ) -> Result<Taken, Failure> {
        let work = self.work;
        let stream = Arc::new(Mutex::new(stream));
        let (mut number, mut unseen) = (0, Unseen::default());
        while lock(&stream).next.is_some() {
            work.setting.require_going_on("go on with the base backup")?;
            number += 1;
            let target = work.options.part_bytes << (number / PARTS_OF_A_SIZE).min(16);
            let part = StreamPart::new(stream.clone(), number, target, check);
            let (report, suspects) = (part.report.clone(), part.suspects.clone());
            let source = Box::new(AssembledSource::new(part));
            self.send(ObjectRole::Part, self.part_key(number)?, Encoding::Tar, source, Some(target)).await?;
            let mut report = std::mem::take(&mut *lock(&report));
            if let Some(check) = check {
                let suspects = std::mem::take(&mut *lock(&suspects));
                work.look_again(suspects, check, &mut report, &mut unseen).await?;
            }
            self.take(report, &feeder).await?;
        }
        let stream = Arc::into_inner(stream)
            .and_then(|stream| stream.into_inner().ok())
            .ok_or_else(|| Failure::new(FailureKind::Failed, "end the base backup: its stream is still being read"))?;
        let ending = async {
            let ended = tokio::task::spawn_blocking(move || stream.end()).await;
            ended
                .map_err(|error| Failure::new(FailureKind::Failed, "read pg_basebackup").because(error))?
                .map_err(refused)
        };
        let (kept, messages) = work.setting.unless_stopped("end the base backup", ending).await?;
        work.cluster.require_own_control(&kept.control)?;
        let stopped = self.stopped(&kept, start, label).await?;
        let basis = Basis::Full(work.parent.clone().and_then(Result::err));
        let ending = Ending { number: number + 1, control: kept.control, skipped: Vec::new() };
        let mut taken = self.close(ending, stopped, basis, &feeder).await?;
        taken.told.extend(warnings(&messages).into_iter().chain(work.unseen(unseen)));
        feeder.end().await;
        Ok(taken)
    }

    /// Where it ended, by PostgreSQL's own manifest: one stretch of the log, from where the label says.
    async fn stopped(&self, kept: &Kept, start: &BackupLabel, label: String) -> Result<Stopped, Failure> {
        let ranges = kept.manifest.ranges().ok_or_else(|| {
            let message = "end the base backup: what pg_basebackup gave at its end does not say which log it needs";
            Failure::new(FailureKind::Failed, message).hint("Run the job again.")
        })?;
        match ranges.as_slice() {
            [range] if range.timeline == start.timeline && range.start == start.start => {
                let asking = async { Ok(self.work.session.clock().await?) };
                let at = self.work.setting.unless_stopped("ask the server for the time", asking).await?;
                Ok(Stopped { lsn: range.end, label, map: String::new(), at })
            }
            _ => {
                let message = format!("end the base backup: it needs the log of {} timelines", ranges.len());
                Err(Failure::new(FailureKind::Failed, message).hint("There was a failover. Run the job again."))
            }
        }
    }
}

/// What pg_basebackup warned of, although it ended well: a file that it left out, as a rule.
fn warnings(messages: &Messages) -> Option<Finding> {
    let mut warnings = messages.warnings();
    warnings.retain(|line| !line.contains(STILL_ARCHIVING));
    let (count, first) = (warnings.len(), warnings.into_iter().take(5).collect::<Vec<_>>().join(", "));
    let message = format!("pg_basebackup gave {count} warnings: {first}");
    (count > 0).then(|| {
        Finding::new(Severity::Warning, "pg-basebackup-warned", message)
            .remedy("what it skipped is not in the backup: a configuration file that is a link is to be kept otherwise")
    })
}

fn refused(error: impl std::error::Error + Send + Sync + 'static) -> Failure {
    Failure::new(
        FailureKind::Failed,
        "stream the cluster through pg_basebackup, because its data directory is not here",
    )
    .because(error)
    .hint(
        "The login needs REPLICATION and a `replication` line in pg_hba.conf; [postgres.replication] names another \
             login. Where the data directory is, an agent that may read it needs neither: postgres.data_directory.",
    )
}
