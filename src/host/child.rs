//! Child processes: started, watched, fed or read, and ended with everything they started.
//!
//! The only door to `fork`. A child runs in a process group of its own, so that its helpers end with it; it inherits a
//! short list of variables and no `PG*`. The surprising thing: reading an end of output answers `Ok(0)` only once the
//! child has also exited with status 0, so that `read_to_end` on a dying pg_dump is an error, not a short dump.

mod input;
mod output;
mod process;
mod stderr;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

pub use input::ChildInput;
pub use output::Child;
pub use process::{KillOnDrop, StopSignal, Stopper};
pub use stderr::Messages;

/// Variables that a child inherits; everything else has to be given to it.
const INHERITED: [&str; 5] = ["PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH"];
/// How many of a child's last lines an error quotes.
const QUOTED_LINES: usize = 10;
/// Largest output [`run_to_end`] takes, in bytes.
const LARGEST_OUTPUT: u64 = 64 << 20;

/// A program to run and how long to bear with it.
#[derive(Clone, Debug)]
pub struct ChildSpec {
    /// Path of the program.
    pub program: PathBuf,
    /// Its arguments, without the program's name. Visible to every user of the machine: never a secret.
    pub arguments: Vec<OsString>,
    /// Variables besides the inherited ones.
    pub environment: BTreeMap<OsString, OsString>,
    /// Whether it inherits all variables but our own (`DBAGENT_…`), as a command of the operator's may need.
    pub inherits_all: bool,
    /// What messages call it.
    pub label: String,
    /// Directory it runs in; this process's own when absent.
    pub directory: Option<PathBuf>,
    /// User and group id to run as; only root may.
    pub run_as: Option<(u32, u32)>,
    /// Longest wait for its next byte, or for it to take one.
    pub no_progress: Option<Duration>,
    /// Longest life.
    pub total: Option<Duration>,
    /// How long it may take to end after being asked to.
    pub grace: Duration,
}

impl ChildSpec {
    /// `program` with `arguments`, labelled by its file name, without time limits.
    pub fn new(program: impl Into<PathBuf>, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let program = program.into();
        let label = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self {
            program,
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: BTreeMap::new(),
            inherits_all: false,
            label,
            directory: None,
            run_as: None,
            no_progress: None,
            total: None,
            grace: Duration::from_secs(5),
        }
    }

    fn command(&self) -> Command {
        #[expect(clippy::disallowed_methods, reason = "this is where children are spawned")]
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).env_clear();
        match self.inherits_all {
            true => command.envs(not_ours()),
            false => command.envs(inherited()).env("LC_ALL", "C"),
        };
        command.envs(&self.environment);
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        if let Some((user, group)) = self.run_as {
            command.uid(user).gid(group);
        }
        command
    }
}

#[expect(clippy::disallowed_methods, reason = "a child's environment is made here, from a closed list")]
fn inherited() -> impl Iterator<Item = (&'static str, OsString)> {
    INHERITED.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Everything but our own settings, which may be secrets.
fn not_ours() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !name.to_string_lossy().starts_with("DBAGENT_"))
}

/// The first file called `name` in the directories of `PATH`.
pub fn find_on_search_path(name: &str) -> Option<PathBuf> {
    let (_, path) = inherited().find(|(variable, _)| *variable == "PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// How a child that failed came to its end.
#[derive(Debug)]
pub enum Ending {
    /// It could not be started.
    NotStarted(io::Error),
    /// It exited with this status.
    Status(i32),
    /// This signal ended it, and not at our wish.
    Signal(i32),
    /// Nothing moved for this long, so it was ended.
    NoProgress(Duration),
    /// It ran for longer than this, so it was ended.
    TooLong(Duration),
    /// It was ended at the wish of a [`Stopper`].
    Stopped,
    /// It exited with status 0 without reading all its input.
    InputLeft,
    /// It said more than can be held.
    TooMuchOutput,
    /// The pipe to it broke in another way.
    Pipe(io::Error),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotStarted(error) => write!(f, "it could not be started: {error}"),
            Self::Status(status) => write!(f, "it exited with status {status}"),
            Self::Signal(signal) => write!(f, "signal {signal} ended it"),
            Self::NoProgress(limit) => write!(f, "it made no progress for {limit:?} and was ended"),
            Self::TooLong(limit) => write!(f, "it ran for more than {limit:?} and was ended"),
            Self::Stopped => f.write_str("it was stopped on request"),
            Self::InputLeft => f.write_str("it ended before it had read all its input"),
            Self::TooMuchOutput => write!(f, "it wrote more than {LARGEST_OUTPUT} bytes"),
            Self::Pipe(error) => write!(f, "the pipe to it broke: {error}"),
        }
    }
}

/// A child that did not do what it was started for.
#[derive(Debug)]
pub struct ChildError {
    /// The label of its [`ChildSpec`].
    pub label: String,
    /// Path of the program.
    pub program: PathBuf,
    /// How it ended.
    pub ending: Ending,
    /// The last lines it wrote to stderr.
    pub messages: Vec<String>,
}

impl ChildError {
    /// The child's failure inside an error of reading from or writing to it.
    pub fn within(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    fn not_started(spec: &ChildSpec, error: io::Error) -> Self {
        let (label, program) = (spec.label.clone(), spec.program.clone());
        Self { label, program, ending: Ending::NotStarted(error), messages: Vec::new() }
    }
}

impl fmt::Display for ChildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "run {} ({}): {}", self.label, self.program.display(), self.ending)?;
        let quoted = &self.messages[self.messages.len().saturating_sub(QUOTED_LINES)..];
        if quoted.is_empty() { Ok(()) } else { write!(f, "; it said: {}", quoted.join(" / ")) }
    }
}

impl std::error::Error for ChildError {}

/// What a short command said.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Everything it wrote to stdout.
    pub stdout: Vec<u8>,
    /// The last lines it wrote to stderr.
    pub stderr: Vec<String>,
}

/// Runs a command that says little, for at most `timeout`. Errors unless it exits with status 0.
pub fn run_to_end(spec: &ChildSpec, timeout: Duration) -> Result<Finished, ChildError> {
    let spec = ChildSpec { total: Some(timeout), ..spec.clone() };
    let mut child = Child::spawn(&spec)?;
    let mut stdout = Vec::new();
    let read = child.by_ref().take(LARGEST_OUTPUT + 1).read_to_end(&mut stdout);
    if let Err(error) = read {
        return Err(child.into_error(error));
    }
    if stdout.len() as u64 > LARGEST_OUTPUT {
        return Err(child.give_up(Ending::TooMuchOutput));
    }
    Ok(Finished { stdout, stderr: child.messages().last() })
}

/// Whether `path` is a program this user may run.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
