//! Kills and errors at system calls of a whole dump job, by strace: no part of dbagent takes part in its own fault.
//!
//! strace counts calls by thread, and which thread does what differs from run to run: a point is a pair of call and
//! number, and each run says in strace's own log whether the fault fired.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::base_expiry::end_leases;
use crate::cli::Desk;
use crate::stage::s3::S3Server;
use crate::stage::server::program;

/// What happens at the chosen call.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Kill,
    Error(&'static str),
}

/// What came of one run under a fault.
struct Ran {
    /// Whether strace says that the fault fired.
    fired: bool,
    /// Whether dbagent itself was killed (its children may be, too).
    killed: bool,
    output: Output,
}

/// One desk that lives through all the faults.
struct Bench {
    desk: Desk,
    log: PathBuf,
    /// Artifacts that are listed.
    listed: usize,
    /// Faults that fired, those that killed dbagent, and artifacts that were made all the same.
    fired: usize,
    killed: usize,
    made: usize,
}

impl Bench {
    /// A desk with one artifact; with `s3`, in S3 too.
    fn new(s3: Option<&S3Server>) -> Self {
        let desk = s3.map_or_else(Desk::new, Desk::with_s3);
        desk.json(0, &["job", "run", "full"]);
        let log = desk.site.root().join("strace.log");
        let listed = listed(&desk);
        Self { desk, log, listed, fired: 0, killed: 0, made: 0 }
    }

    /// Runs the dump with `fault` at the `nth` call of `call` of each thread.
    fn run(&self, call: &str, fault: Fault, nth: usize) -> Ran {
        let what = match fault {
            Fault::Kill => "signal=KILL".to_owned(),
            Fault::Error(name) => format!("error={name}"),
        };
        let job = self.desk.command(&["job", "run", "full", "--json"]);
        let mut traced = Command::new(program("strace"));
        // The call has to be traced: what is not traced is not injected either.
        traced.args(["-f", "-q", "-y", "-e", &format!("trace={call}"), "-o"]).arg(&self.log);
        traced.args(["-e", &format!("inject={call}:{what}:when={nth}")]).arg(job.get_program()).args(job.get_args());
        traced.env_clear().envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = traced.stdin(Stdio::null()).output().unwrap();
        let log = std::fs::read(&self.log).unwrap();
        let log = String::from_utf8_lossy(&log);
        let fired = match fault {
            Fault::Kill => log.contains("+++ killed by SIGKILL +++"),
            Fault::Error(_) => log.contains("(INJECTED)"),
        };
        // strace ends as what it traced has ended.
        Ran { fired, killed: output.status.signal() == Some(9), output }
    }

    /// Does that, and looks at what there is afterwards; says whether the fault fired.
    fn survives(&mut self, call: &str, fault: Fault, nth: usize) -> bool {
        let ran = self.run(call, fault, nth);
        let place = format!("{call} {nth}: {:?}", ran.output.status);
        let now = listed(&self.desk);
        let grown = now - self.listed;
        assert!(ran.fired || ran.output.status.success(), "{place}: {}", String::from_utf8_lossy(&ran.output.stdout));
        if ran.output.status.success() {
            assert_eq!(now, listed_after_success(&self.desk, self.listed), "{place}");
        } else if !ran.killed {
            // An error, or a client program that was killed: told as such, and nothing came of it.
            assert!(String::from_utf8_lossy(&ran.output.stdout).contains("\"message\""), "{place}: {:?}", ran.output);
        }
        self.fired += usize::from(ran.fired);
        self.killed += usize::from(ran.killed);
        if ran.fired && grown > 0 {
            self.made += 1;
            all_are_whole(&self.desk);
            let name = format!("made_{}", self.made);
            self.desk.json(0, &["restore", "--database", "shop", "--to-database", &name]);
        }
        self.listed = now;
        ran.fired
    }

    /// What the dead left is cleared away, the next run is good, and everything listed comes back.
    fn ends_well(self) {
        end_leases(&self.desk);
        let mut expire = self.desk.command(&["expire", "--yes", "--json"]);
        let expired = expire.env("DBAGENT_AGENT__EXPIRE_GRACE", "0 seconds").output().unwrap();
        assert!(matches!(expired.status.code(), Some(0 | 3)), "{expired:?}");
        let parts = Command::new("find").arg(self.desk.site.root().join("local")).args(["-name", "*.part"]).output();
        assert_eq!(String::from_utf8_lossy(&parts.unwrap().stdout), "");
        assert_eq!(self.desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
        all_are_whole(&self.desk);
        self.desk.json(0, &["restore", "--database", "shop", "--to-database", "copy"]);
        assert!(self.killed <= self.fired && self.made <= self.fired);
    }
}

/// Copies of artifacts that are listed. Leftovers of the dead are findings beside them.
fn listed(desk: &Desk) -> usize {
    let output = desk.command(&["backup", "list", "--json", "--quiet"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    value["backups"].as_array().unwrap().len()
}

/// How many there must be when a run has ended well with `before` listed.
fn listed_after_success(desk: &Desk, before: usize) -> usize {
    before + desk.environment.len().min(1) + 1
}

/// Reads, decrypts and checks everything that is listed.
fn all_are_whole(desk: &Desk) {
    let output = desk.command(&["backup", "verify", "--deep", "--json", "--quiet"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let copies = value["verified"].as_array().unwrap();
    assert!(!copies.is_empty() && copies.iter().all(|copy| copy["good"] == true), "{value}");
}

/// Calls at which each thread is past its start and at the files of the dump.
const SAMPLE: [(&str, usize); 10] = [
    ("fsync", 2),
    ("fsync", 4),
    ("fsync", 7),
    ("renameat2", 1),
    ("renameat2", 2),
    ("unlinkat", 4),
    ("getdents64", 6),
    ("fdatasync", 2),
    ("write", 14),
    ("read", 100),
];

#[test]
fn f01_killed_at_a_sample_of_system_calls_nothing_half_made_is_listed() {
    let mut bench = Bench::new(None);
    for (call, nth) in SAMPLE {
        // How much of the work one thread gets is a matter of chance.
        let fired = bench.survives(call, Fault::Kill, nth) || bench.survives(call, Fault::Kill, nth.div_ceil(2));
        assert!(fired, "{call} {nth} was never reached");
    }
    assert!(bench.killed >= 8, "only {} of the kills met dbagent", bench.killed);
    bench.ends_well();
}

#[test]
fn f19_an_fsync_that_fails_fails_the_run_and_is_not_tried_again() {
    let mut bench = Bench::new(None);
    let mut in_repository = 0;
    for nth in if cfg!(feature = "long") { 1..=8 } else { 2..=3 } {
        let before = bench.listed;
        assert!(bench.survives("fsync", Fault::Error("EIO"), nth), "fsync {nth} was never reached");
        let log = std::fs::read_to_string(&bench.log).unwrap();
        let failed: Vec<(usize, &str)> =
            log.lines().enumerate().filter(|(_, line)| line.contains("(INJECTED)")).collect();
        for (at, line) in &failed {
            let path = line.split(['<', '>']).nth(1).unwrap();
            let again = log.lines().skip(at + 1).any(|line| line.contains(&format!("<{path}>")));
            assert!(!again || !path.ends_with(".part"), "{path} was synced again:\n{log}");
        }
        // A lease that cannot be written holds nothing up.
        if failed.iter().any(|(_, line)| line.contains("/local/") && !line.contains("/local/leases")) {
            in_repository += 1;
            assert_eq!(bench.listed, before, "{log}");
        }
    }
    assert!(in_repository > 0, "no fsync of the repository failed");
    bench.ends_well();
}

/// Goes through the numbers of `calls`, all of the first ones and ever fewer of the rest, until none fires any more.
#[cfg(feature = "long")]
fn every_nth(calls: &[&str], fault: Fault, s3: Option<&S3Server>, least: usize) {
    let mut bench = Bench::new(s3);
    for call in calls {
        let (mut nth, mut quiet) = (1, 0);
        // Threads share the work out differently each time: a number that is not reached once may be the next time.
        while quiet < 3 && nth < 2000 {
            quiet = if bench.survives(call, fault, nth) { 0 } else { quiet + 1 };
            nth += 1 + nth / 12;
        }
    }
    assert!(bench.fired >= least, "only {} faults fired", bench.fired);
    bench.ends_well();
}

#[cfg(feature = "long")]
#[test]
fn f01_long_killed_at_every_call_on_files_and_folders() {
    let calls =
        ["openat", "fsync", "fdatasync", "renameat2", "unlinkat", "mkdirat", "getdents64", "newfstatat", "flock"];
    every_nth(&calls, Fault::Kill, None, 80);
}

#[cfg(feature = "long")]
#[test]
fn f01_long_killed_at_every_read_and_write() {
    every_nth(&["write", "read", "pread64", "close"], Fault::Kill, None, 80);
}

#[cfg(feature = "long")]
#[test]
fn f01_long_killed_at_every_call_on_processes_and_sockets() {
    let calls = ["clone3", "execve", "connect", "sendto", "recvfrom", "epoll_ctl", "poll", "wait4", "waitid", "kill"];
    every_nth(&calls, Fault::Kill, None, 80);
}

#[cfg(feature = "long")]
#[test]
fn f01_long_killed_at_every_call_while_it_writes_to_s3_too() {
    let s3 = S3Server::start();
    every_nth(&["writev", "sendto", "recvfrom", "fsync", "renameat2"], Fault::Kill, Some(&s3), 60);
}

#[cfg(feature = "long")]
#[test]
fn f19_long_errors_at_every_call_on_files_are_told_and_nothing_half_made_is_listed() {
    for (calls, error) in [
        (&["fsync", "renameat2", "mkdirat", "getdents64", "fdatasync"][..], "EIO"),
        (&["openat", "renameat2", "mkdirat"][..], "ENOSPC"),
        (&["openat", "socket", "pipe2"][..], "EMFILE"),
    ] {
        every_nth(calls, Fault::Error(error), None, 10);
    }
}
