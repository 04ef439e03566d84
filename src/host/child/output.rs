//! A child that is read: its stdout as a [`Source`].

use std::io::{self, Read};
use std::os::fd::AsFd as _;
use std::process::{ChildStdout, Stdio};

use rustix::event::PollFlags;

use super::process::Process;
use super::{ChildError, ChildSpec, Ending, Messages, StopSignal, Stopper};
use crate::host::complete::{Complete, Source, SourceError};

/// Asked of the kernel for the pipe, so that pg_dump and we switch less often; it may give less.
const PIPE_BYTES: usize = 1 << 20;

/// A running child whose stdout is read. Dropping it kills its process group.
#[derive(Debug)]
pub struct Child {
    process: Process,
    stdout: ChildStdout,
    bytes: u64,
    ended: Option<Result<(), String>>,
}

impl Child {
    /// Starts the program of `spec`.
    pub fn spawn(spec: &ChildSpec) -> Result<Self, ChildError> {
        let mut command = spec.command();
        command.stdout(Stdio::piped());
        let mut process = Process::spawn(spec, command)?;
        let Some(stdout) = process.child().stdout.take() else {
            return Err(process.error(Ending::Pipe(io::Error::other("the child has no stdout"))));
        };
        // Best effort: an ordinary user may be at the limit of pipe-user-pages-soft.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdout, PIPE_BYTES);
        Ok(Self { process, stdout, bytes: 0, ended: None })
    }

    /// Ends the child from another thread.
    pub fn stopper(&self) -> Stopper {
        self.process.stopper()
    }

    /// What the child says on stderr.
    pub fn messages(&self) -> Messages {
        self.process.messages().clone()
    }

    /// Process id, which is its group's number too.
    pub fn id(&mut self) -> u32 {
        self.process.child().id()
    }

    /// Asks the child to end and sees that it does.
    pub fn stop(mut self, signal: StopSignal) {
        self.process.end(signal);
    }

    /// Ends the child because of `ending`.
    pub(super) fn give_up(mut self, ending: Ending) -> ChildError {
        self.process.error(ending)
    }

    /// The child's own error inside `error`, which reading it gave.
    pub(super) fn into_error(self, error: io::Error) -> ChildError {
        match error.downcast::<ChildError>() {
            Ok(error) => error,
            Err(error) => self.give_up(Ending::Pipe(error)),
        }
    }

    fn read_some(&mut self, buffer: &mut [u8]) -> Result<usize, Ending> {
        self.process.wait_for(self.stdout.as_fd(), PollFlags::IN)?;
        let read = self.stdout.read(buffer).map_err(Ending::Pipe)?;
        if read == 0 {
            self.process.conclude_soon()?;
            self.ended = Some(Ok(()));
        }
        self.bytes += read as u64;
        Ok(read)
    }
}

impl Read for Child {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &self.ended {
            _ if buffer.is_empty() => return Ok(0),
            Some(Ok(())) => return Ok(0),
            Some(Err(text)) => return Err(io::Error::other(text.clone())),
            None => {}
        }
        self.read_some(buffer).map_err(|ending| {
            let error = self.process.error(ending);
            self.ended = Some(Err(error.to_string()));
            io::Error::other(error)
        })
    }
}

impl Source for Child {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        match &self.ended {
            Some(Ok(())) => Ok(Complete::after(self.bytes)),
            Some(Err(text)) => Err(SourceError::new(text.clone())),
            None => Err(SourceError::new(format!("read {} to its end", self.process.label()))),
        }
    }
}
