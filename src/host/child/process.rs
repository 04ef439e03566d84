//! A running process group: waiting for it with limits, ending it, reaping it. What the reading and the feeding side
//! of a child share.
//!
//! Signals go to the group only while its leader has not been reaped: a zombie keeps the number from being given to
//! somebody else. Exits are awaited on a pidfd (Linux 5.3), next to the pipe and to the wish to stop.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

use super::{ChildError, ChildSpec, Ending, Messages};
use crate::host::clock::{Clock as _, SystemClock};

/// How long to wait for the last lines of a child that has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a child is asked to end; SIGKILL follows when its grace is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGTERM: what most programs understand.
    Terminate,
    /// SIGINT: a fast shutdown for a postmaster.
    Interrupt,
    /// SIGQUIT: an immediate shutdown for a postmaster.
    Quit,
}

impl StopSignal {
    fn signal(self) -> Signal {
        match self {
            Self::Terminate => Signal::TERM,
            Self::Interrupt => Signal::INT,
            Self::Quit => Signal::QUIT,
        }
    }
}

/// Ends a child from another thread. Clones stop the same child; stopping one that has ended does nothing.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<Control>);

impl Stopper {
    /// Asks the child to end; whoever reads or feeds it gets an error that says so, and sees that it does end.
    pub fn stop(&self) {
        self.0.stopped.store(true, Ordering::SeqCst);
        self.0.ask(StopSignal::Terminate);
        // Fails only if the counter is full, and then the waiter is awake already.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }
}

impl Stopper {
    /// Kills the child when the value that comes back is dropped, unless it has ended by then.
    pub fn kill_on_drop(&self) -> KillOnDrop {
        KillOnDrop(self.clone())
    }
}

/// Kills a child when it is dropped. For work that can be dropped while a thread of its own waits for the child.
#[derive(Debug)]
pub struct KillOnDrop(Stopper);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.0.stopped.store(true, Ordering::SeqCst);
        self.0.0.send(Signal::KILL);
    }
}

#[derive(Debug)]
struct Control {
    /// The group's number, until its leader is reaped.
    group: Mutex<Option<Pid>>,
    stopped: AtomicBool,
    wake: OwnedFd,
}

impl Control {
    /// Signals the group; a stopped process is woken, or it would never see it. A group that is gone needs no signal.
    fn ask(&self, signal: StopSignal) {
        self.send(signal.signal());
        self.send(Signal::CONT);
    }

    fn send(&self, signal: Signal) {
        if let Some(group) = *self.group() {
            let _ = kill_process_group(group, signal);
        }
    }

    fn group(&self) -> MutexGuard<'_, Option<Pid>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A child and its group. Dropping it kills and reaps them.
#[derive(Debug)]
pub(super) struct Process {
    child: std::process::Child,
    exit: OwnedFd,
    control: Arc<Control>,
    messages: Messages,
    clock: SystemClock,
    label: String,
    program: PathBuf,
    no_progress: Option<Duration>,
    total: Option<Duration>,
    grace: Duration,
}

impl Process {
    pub(super) fn spawn(spec: &ChildSpec, mut command: Command) -> Result<Self, ChildError> {
        let failed = |error: io::Error| ChildError::not_started(spec, error);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| failed(e.into()))?;
        let mut child = command.spawn().map_err(failed)?;
        match watch(&mut child) {
            Ok((group, exit, messages)) => Ok(Self {
                child,
                exit,
                control: Arc::new(Control { group: Mutex::new(Some(group)), stopped: AtomicBool::new(false), wake }),
                messages,
                clock: SystemClock::new(),
                label: spec.label.clone(),
                program: spec.program.clone(),
                no_progress: spec.no_progress,
                total: spec.total,
                grace: spec.grace,
            }),
            Err(error) => {
                // It has done nothing yet; the first error is the one to tell.
                let _ = child.kill().and_then(|()| child.wait());
                Err(failed(error))
            }
        }
    }

    pub(super) fn child(&mut self) -> &mut std::process::Child {
        &mut self.child
    }

    pub(super) fn label(&self) -> &str {
        &self.label
    }

    pub(super) fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.control))
    }

    pub(super) fn messages(&self) -> &Messages {
        &self.messages
    }

    /// Waits until `flags` hold for `pipe`, within the limits.
    pub(super) fn wait_for(&self, pipe: BorrowedFd<'_>, flags: PollFlags) -> Result<(), Ending> {
        self.wait(pipe, flags, self.no_progress)
    }

    /// Waits for the exit of a child that has closed its pipe, within the limits. Errors unless its status is 0.
    pub(super) fn conclude_soon(&mut self) -> Result<(), Ending> {
        self.conclude(self.no_progress)
    }

    /// Waits for the exit, for `patience` at most and within the limit on its whole life. Errors unless its status
    /// is 0.
    pub(super) fn conclude(&mut self, patience: Option<Duration>) -> Result<(), Ending> {
        self.wait(self.exit.as_fd(), PollFlags::IN, patience)?;
        let status = self.reap().map_err(Ending::Pipe)?;
        self.messages.wait_for_end(LAST_WORDS);
        match (status.success(), self.control.stopped.load(Ordering::SeqCst)) {
            (true, _) => Ok(()),
            (false, true) => Err(Ending::Stopped),
            (false, false) => Err(ending_of(status)),
        }
    }

    /// Asks the group to end, kills it when its grace is over, and reaps it.
    pub(super) fn end(&mut self, signal: StopSignal) {
        self.control.ask(signal);
        let mut exit = [PollFd::new(&self.exit, PollFlags::IN)];
        // Ended or not, killed it is: by then only helpers can be left.
        let _ = poll_until(&mut exit, &self.clock, Some(self.clock.monotonic() + self.grace));
        let _ = self.reap();
    }

    /// The error for a child that came to `ending`, which is ended first if it still runs.
    pub(super) fn error(&mut self, ending: Ending) -> ChildError {
        self.end(StopSignal::Terminate);
        self.messages.wait_for_end(LAST_WORDS);
        let (label, program) = (self.label.clone(), self.program.clone());
        ChildError { label, program, ending, messages: self.messages.last() }
    }

    fn wait(&self, pipe: BorrowedFd<'_>, flags: PollFlags, patience: Option<Duration>) -> Result<(), Ending> {
        let now = self.clock.monotonic();
        let due = [patience.map(|patience| now + patience), self.total].into_iter().flatten().min();
        let mut waited = [PollFd::from_borrowed_fd(pipe, flags), PollFd::new(&self.control.wake, PollFlags::IN)];
        let came = poll_until(&mut waited, &self.clock, due).map_err(|error| Ending::Pipe(error.into()))?;
        if !waited[1].revents().is_empty() {
            return Err(Ending::Stopped);
        }
        match (came, self.total, patience) {
            (true, ..) => Ok(()),
            (false, Some(total), _) if self.clock.monotonic() >= total => Err(Ending::TooLong(total)),
            (false, _, patience) => Err(Ending::NoProgress(patience.unwrap_or_default())),
        }
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        self.control.send(Signal::KILL);
        let status = self.child.wait();
        *self.control.group() = None;
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to be told; a child already reaped is not waited for again.
        let _ = self.reap();
    }
}

fn watch(child: &mut std::process::Child) -> io::Result<(Pid, OwnedFd, Messages)> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let group = group.ok_or_else(|| io::Error::other("the child has no process id"))?;
    let stderr = child.stderr.take().ok_or_else(|| io::Error::other("the child has no stderr"))?;
    Ok((group, pidfd_open(group, PidfdFlags::empty())?, Messages::read_from(stderr)?))
}

fn ending_of(status: ExitStatus) -> Ending {
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Status(code),
        (None, signal) => Ending::Signal(signal.unwrap_or_default()),
    }
}

/// False when `due`, an instant of `clock`, came first.
fn poll_until(fds: &mut [PollFd<'_>], clock: &SystemClock, due: Option<Duration>) -> rustix::io::Result<bool> {
    loop {
        let left = due.map(|due| due.saturating_sub(clock.monotonic()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(fds, left.as_ref()) {
            Err(Errno::INTR) => {}
            ready => return ready.map(|ready| ready > 0),
        }
    }
}
