//! A child that is fed: its stdin as a writer.
//!
//! Our end of the pipe does not block, so that a stopped child cannot hold us longer than the limits allow.

use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::process::{ChildStdin, Stdio};

use rustix::event::PollFlags;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

use super::process::Process;
use super::{ChildError, ChildSpec, Ending, Messages, Stopper};

const PIPE_BYTES: usize = 1 << 20;

/// A running child that reads what is written here. Dropping it kills its process group: only [`ChildInput::finish`]
/// lets it come to an end of its own.
#[derive(Debug)]
pub struct ChildInput {
    process: Process,
    stdin: ChildStdin,
    failed: Option<String>,
}

impl ChildInput {
    /// Starts the program of `spec`; its stdout is dropped.
    pub fn spawn(spec: &ChildSpec) -> Result<Self, ChildError> {
        let mut command = spec.command();
        command.stdin(Stdio::piped());
        let mut process = Process::spawn(spec, command)?;
        let Some(stdin) = process.child().stdin.take() else {
            return Err(process.error(Ending::Pipe(io::Error::other("the child has no stdin"))));
        };
        let unblocked = fcntl_getfl(&stdin).and_then(|flags| fcntl_setfl(&stdin, flags | OFlags::NONBLOCK));
        unblocked.map_err(|error| process.error(Ending::Pipe(error.into())))?;
        // Best effort: an ordinary user may be at the limit of pipe-user-pages-soft.
        let _ = rustix::pipe::fcntl_setpipe_size(&stdin, PIPE_BYTES);
        Ok(Self { process, stdin, failed: None })
    }

    /// Ends the child from another thread.
    pub fn stopper(&self) -> Stopper {
        self.process.stopper()
    }

    /// What the child says on stderr.
    pub fn messages(&self) -> Messages {
        self.process.messages().clone()
    }

    /// Closes its input and waits for it to exit with status 0; only the limit on its whole life applies by then.
    pub fn finish(self) -> Result<Messages, ChildError> {
        let Self { mut process, stdin, failed } = self;
        if let Some(text) = failed {
            return Err(process.error(Ending::Pipe(io::Error::other(text))));
        }
        drop(stdin);
        process.conclude(None).map_err(|ending| process.error(ending))?;
        Ok(process.messages().clone())
    }

    fn write_some(&mut self, bytes: &[u8]) -> Result<usize, Ending> {
        loop {
            match self.stdin.write(bytes) {
                Ok(written) => return Ok(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.process.wait_for(self.stdin.as_fd(), PollFlags::OUT)?;
                }
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                    self.process.conclude_soon()?;
                    return Err(Ending::InputLeft);
                }
                Err(error) => return Err(Ending::Pipe(error)),
            }
        }
    }
}

impl Write for ChildInput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(text) = &self.failed {
            return Err(io::Error::other(text.clone()));
        }
        self.write_some(bytes).map_err(|ending| {
            let error = self.process.error(ending);
            self.failed = Some(error.to_string());
            io::Error::other(error)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
