//! Kills and errors at system calls of a push, by strace: whatever happens, the next push makes it good, and one copy counts.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::{Command, Stdio};

use dbagent::model::wal::SegmentName;

use crate::stage::server::program;
use crate::wal_archiver::{Archive, code};

/// An archive whose archiver does nothing: the test pushes itself.
struct Bench {
    archive: Archive,
    fired: usize,
    killed: usize,
}

impl Bench {
    fn new() -> Self {
        let archive = Archive::new();
        archive.write(&archive.server.directory().join("push.sh"), "exit 1");
        Self { archive, fired: 0, killed: 0 }
    }

    /// Pushes a new segment with `fault` at the `nth` call of `call` of each thread, looks at what there is, and pushes it
    /// again; says whether the fault fired.
    fn survives(&mut self, call: &str, fault: &str, nth: usize) -> bool {
        let segment = self.archive.segment();
        let path = format!("pg_wal/{segment}");
        let log = self.archive.root().join("state/strace.log");
        let push = self.archive.command(&["-q", "wal", "push", &path]);
        let mut traced = Command::new(program("strace"));
        if let Some((user, group)) = self.archive.owner() {
            traced.uid(user).gid(group);
        }
        // The call has to be traced: what is not traced is not injected either.
        traced.args([
            "-f",
            "-q",
            "-e",
            &format!("trace={call}"),
            "-e",
            &format!("inject={call}:{fault}:when={nth}"),
            "-o",
        ]);
        traced.arg(&log).arg(push.get_program()).args(push.get_args()).current_dir(push.get_current_dir().unwrap());
        traced.env_clear().envs(push.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let output = traced.stdin(Stdio::null()).output().unwrap();
        let told = std::fs::read(&log).unwrap();
        let told = String::from_utf8_lossy(&told);
        let fired = told.contains("+++ killed by SIGKILL +++") || told.contains("(INJECTED)");
        let killed = output.status.signal() == Some(9);
        let place = format!("{call} {nth} {fault}: {output:?}");
        assert!(killed || matches!(output.status.code(), Some(0 | 1)), "{place}");
        assert!(fired || output.status.success(), "{place}");
        if output.status.success() {
            self.is_stored(segment, &place);
        }
        let again = self.archive.run(&["wal", "push", &path]);
        assert_eq!(code(&again), 0, "{place}, then {again:?}");
        self.is_stored(segment, &place);
        self.fired += usize::from(fired);
        self.killed += usize::from(killed);
        fired
    }

    /// One record, one object, and they give the segment back.
    fn is_stored(&self, segment: SegmentName, place: &str) {
        assert_eq!(self.archive.objects_of(segment), 2, "{place}: {:?}", self.archive.stored());
        let (code, fetched) = self.archive.fetch(segment);
        assert_eq!(code, Some(0), "{place}");
        let original = self.archive.server.data_directory().join(format!("pg_wal/{segment}"));
        assert_eq!(std::fs::read(fetched).unwrap(), std::fs::read(original).unwrap(), "{place}");
    }
}

#[test]
fn f02_killed_at_a_sample_of_system_calls_the_next_push_makes_it_good() {
    let mut bench = Bench::new();
    for (call, nth) in
        [("fsync", 1), ("fsync", 2), ("fsync", 3), ("renameat2", 1), ("mkdirat", 1), ("openat", 20), ("write", 2)]
    {
        bench.survives(call, "signal=KILL", nth);
    }
    assert!(bench.killed >= 4, "only {} of the kills met the push", bench.killed);
}

#[test]
fn f19_a_call_that_fails_fails_the_push_or_changes_nothing() {
    let mut bench = Bench::new();
    for (call, error, nth) in
        [("fsync", "EIO", 1), ("fsync", "EIO", 2), ("renameat2", "EIO", 1), ("write", "ENOSPC", 2)]
    {
        bench.survives(call, &format!("error={error}"), nth);
    }
    assert!(bench.fired >= 3, "only {} of the errors met the push", bench.fired);
}

#[cfg(feature = "long")]
#[test]
fn g2_long_killed_at_every_call_no_acknowledged_segment_is_missing() {
    let mut bench = Bench::new();
    for call in [
        "openat",
        "fsync",
        "renameat2",
        "mkdirat",
        "unlinkat",
        "newfstatat",
        "write",
        "read",
        "pread64",
        "close",
        "futex",
    ] {
        let (mut nth, mut quiet) = (1, 0);
        while quiet < 3 && nth < 1000 {
            quiet = if bench.survives(call, "signal=KILL", nth) { 0 } else { quiet + 1 };
            nth += 1 + nth / 20;
        }
    }
    assert!(bench.killed >= 300, "only {} kills", bench.killed);
}
