//! Running agents as processes of their own: what they say, signals to them, and a wall clock that a test can move.

use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use chrono::{DateTime, Timelike as _, Utc};

/// Longest wait for anything an agent is to say: a minute's schedule comes within it.
const PATIENCE: Duration = Duration::from_secs(90);

/// A running agent, killed when dropped.
pub struct RunningAgent {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl RunningAgent {
    /// Starts `command`, which runs an agent, and goes on at once.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = child.stderr.take().unwrap();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in std::io::BufReader::new(stderr).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines, said: Vec::new() }
    }

    /// The same, and waits until it leads.
    pub fn start_leading(command: Command) -> Self {
        let mut agent = Self::start(command);
        agent.leads();
        agent
    }

    /// The next line for which `is_it` holds; lines before it are passed over.
    pub fn hears(&mut self, what: &str, is_it: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("the agent never said {what}; it said:\n{}", self.said.join("\n"));
            };
            self.said.push(line.clone());
            if is_it(&line) {
                return line;
            }
        }
    }

    /// The next line that contains `text`.
    pub fn says(&mut self, text: &str) -> String {
        self.hears(text, |line| line.contains(text))
    }

    /// The line in which it says that it leads.
    pub fn leads(&mut self) -> String {
        self.hears("that it leads", |line| line.contains("fencing_token") && !line.contains("null"))
    }

    /// The line in which it says that it leads no longer.
    pub fn follows(&mut self) -> String {
        self.hears("that it leads no longer", |line| line.contains("fencing_token") && line.contains("null"))
    }

    /// Everything it has said, up to now.
    pub fn said(&mut self) -> String {
        self.said.extend(self.lines.try_iter());
        self.said.join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        signal(self.id(), name);
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for RunningAgent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends the signal `name` (`TERM`, `STOP`) to a process.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status().unwrap();
    assert!(sent.success(), "kill -{name} {process}");
}

/// The largest resident set of a process so far, in KiB; nothing when there is no such process.
pub fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// The programs called `name`, alive, that connect to the server in the directory `socket`, whoever started them.
pub fn clients_of(socket: &Path, name: &str) -> Vec<u32> {
    let wanted = format!("PGHOST={}", socket.display());
    let alive = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let process: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let read = |file: &str| std::fs::read(format!("/proc/{process}/{file}"));
        let command = String::from_utf8_lossy(&read("comm").ok()?).trim().to_owned();
        let environment = read("environ").ok()?;
        let fits = environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes());
        (command == name && fits).then_some(process)
    });
    alive.collect()
}

/// A wall clock for child processes, some seconds away from the real one.
pub struct MovableClock {
    library: PathBuf,
    offset: PathBuf,
}

impl MovableClock {
    /// Compiles the library into `folder`; the clock shows the real time.
    pub fn new(folder: &Path) -> Self {
        let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
        std::fs::write(&source, include_str!("clock.c")).unwrap();
        let compiled =
            Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&source).status().unwrap();
        assert!(compiled.success(), "cc clock.c");
        let clock = Self { library, offset: folder.join("clock.offset") };
        clock.set(0);
        clock
    }

    /// Lets `command` see this clock.
    pub fn show(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library).env("DBAGENT_TEST_CLOCK", &self.offset);
    }

    /// Shows `seconds` more than the real clock.
    pub fn set(&self, seconds: i64) {
        // By a rename, so that nobody ever reads half of it.
        let next = self.offset.with_extension("next");
        std::fs::write(&next, seconds.to_string()).unwrap();
        std::fs::rename(next, &self.offset).unwrap();
    }
}

/// How many seconds from `now` until `before` ahead of the next full hour that is at least that far away.
pub fn until_next_hour(now: DateTime<Utc>, before: i64) -> i64 {
    let gone = i64::from(now.minute() * 60 + now.second());
    let left = 3600 - gone - before;
    if left >= 0 { left } else { left + 3600 }
}
