//! What the machine does to a whole dump job: programs that hang, disks that are full or read-only, limits.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::Desk;
use crate::dump_faults::tools_with;
use crate::stage::agent::{RunningAgent, clients_of};

/// A pg_dump that stops itself, with everything in its process group, in the middle of its rows.
const STOPS_ITSELF: &str = "#!/bin/bash\ncase \"$*\" in *--version*|*--schema-only*) exec REAL \"$@\";; esac\n\
    echo 'pg_dump: warning: about to stop' >&2\n( REAL \"$@\" | head -c 100000; kill -STOP 0 )\n";

/// A desk whose pg_dump stops itself, and which waits `patience` for its next byte.
fn with_a_pg_dump_that_stops(patience: &str) -> Desk {
    let desk = Desk::new();
    let tools = tools_with(&desk.site, STOPS_ITSELF);
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let text = text.replace("[postgres]\n", &format!("[postgres]\nbin_directory = '{}'\n", tools.display()));
    std::fs::write(&desk.config, text).unwrap();
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    let text = text.replace("folder = 'full'", &format!("folder = 'full'\nno_progress_timeout = '{patience}'"));
    std::fs::write(plan, text).unwrap();
    desk
}

/// Puts the real pg_dump where the one that stops was.
fn mend_pg_dump(desk: &Desk) {
    let path = desk.site.root().join("bin/pg_dump");
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&desk.site.tools().pg_dump.path, path).unwrap();
}

/// pg_dump processes, that of the script among them, which are stopped by a signal.
fn stopped_pg_dumps(desk: &Desk) -> usize {
    let stopped = |process: &u32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        status.lines().any(|line| line.starts_with("State:") && line.contains("(stopped)"))
    };
    clients_of(desk.site.server.directory(), "pg_dump").iter().filter(|process| stopped(process)).count()
}

fn wait_until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn listed(desk: &Desk) -> usize {
    desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len()
}

#[test]
fn f14_a_pg_dump_stopped_by_a_signal_is_ended_with_its_last_words_and_leaves_no_process() {
    let desk = with_a_pg_dump_that_stops("1 s");
    let mut run = desk.command(&["job", "run", "full", "--json"]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("pg_dump is stopped", || stopped_pg_dumps(&desk) > 0);
    let output = run.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("no progress") && text.contains("about to stop"), "{text}");
    assert_eq!(clients_of(desk.site.server.directory(), "pg_dump"), [0; 0]);
    assert_eq!(listed(&desk), 0);
    mend_pg_dump(&desk);
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
}

#[test]
fn f08_a_hung_pg_dump_outlives_neither_one_signal_nor_two() {
    let desk = with_a_pg_dump_that_stops("15 min");
    for (grace, signals) in [("1 s", 1), ("60 s", 2)] {
        let mut command = desk.command(&["run"]);
        command.env("DBAGENT_AGENT__SHUTDOWN_GRACE", grace);
        let mut agent = RunningAgent::start_leading(command);
        let mut asked = desk.command(&["job", "run", "full"]);
        let mut asked = asked.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("pg_dump is stopped", || stopped_pg_dumps(&desk) > 0);
        for _ in 0..signals {
            agent.signal("TERM");
        }
        assert_eq!(agent.wait().code(), Some(0), "{}", agent.said());
        wait_until("nothing is left", || clients_of(desk.site.server.directory(), "pg_dump").is_empty());
        assert!(!asked.wait().unwrap().success());
        assert_eq!(listed(&desk), 0);
    }
    // By hand, one signal is enough.
    let mut run = desk.command(&["job", "run", "full"]);
    let run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until("pg_dump is stopped", || stopped_pg_dumps(&desk) > 0);
    crate::stage::agent::signal(run.id(), "TERM");
    let output = run.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(clients_of(desk.site.server.directory(), "pg_dump"), [0; 0]);
}

/// `command` run by `wrapper`, with the same variables.
fn wrapped(wrapper: &[&str], command: &Command) -> Command {
    let mut wrapped = Command::new(wrapper[0]);
    wrapped.args(&wrapper[1..]).arg(command.get_program()).args(command.get_args()).env_clear();
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?)))).stdin(Stdio::null());
    wrapped
}

#[test]
fn f17_a_file_that_may_not_grow_fails_the_run_clearly_and_the_agent_recovers_without_a_restart() {
    let desk = Desk::new();
    // Ignored, the signal becomes an error of write(2), as on a full disk.
    let limit = ["bash", "-c", "trap '' XFSZ; exec prlimit --fsize=100000:unlimited \"$0\" \"$@\""];
    let agent = RunningAgent::start_leading(wrapped(&limit, &desk.command(&["run"])));
    let failed = desk.json(1, &["job", "run", "full"]);
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("local/full/shop_full") && message.contains("File too large"), "{message}");
    assert!(failed["error"]["hint"].as_str().unwrap().contains("room"), "{failed}");
    assert_eq!(listed(&desk), 0);
    let raised = Command::new("prlimit").args(["--pid", &agent.id().to_string(), "--fsize=unlimited"]).status();
    assert!(raised.unwrap().success());
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
    assert_eq!(listed(&desk), 1);
}

/// An agent in a mount namespace of its own, in which repository and state lie on small disks.
struct OnSmallDisks {
    desk: Desk,
    agent: RunningAgent,
}

impl OnSmallDisks {
    fn start() -> Self {
        let desk = Desk::new();
        std::fs::create_dir(desk.site.root().join("state")).unwrap();
        let mount = format!(
            "for disk in local state; do mount -t tmpfs -o size=2m,mode=0700 none '{}'/$disk || exit 99; done; exec \"$0\" \"$@\"",
            desk.site.root().display()
        );
        let agent = wrapped(&["unshare", "--mount", "bash", "-c", &mount], &desk.command(&["run"]));
        let agent = RunningAgent::start_leading(agent);
        Self { desk, agent }
    }

    fn wrapper(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--mount=/proc/{}/ns/mnt", self.agent.id()), "--".into()]
    }

    /// Runs dbagent where the agent is.
    fn dbagent(&self, arguments: &[&str]) -> (Output, Value) {
        let wrapper = self.wrapper();
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        let mut command = self.desk.command(arguments);
        command.arg("--json").env("DBAGENT_RESTORE__SCRATCH_DIRECTORY", self.desk.site.root().join("state"));
        let output = wrapped(&wrapper, &command).output().unwrap();
        let value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        (output, value)
    }

    /// Runs the dump; gives its exit code and what it answered.
    fn dump(&self) -> (Option<i32>, String) {
        let (output, value) = self.dbagent(&["job", "run", "full"]);
        (output.status.code(), value.to_string())
    }

    fn listed(&self) -> usize {
        self.dbagent(&["backup", "list"]).1["backups"].as_array().unwrap().len()
    }

    /// Does something to the disks, in the directory that holds them.
    fn shell(&self, script: &str) -> String {
        let wrapper = self.wrapper();
        let script = format!("cd '{}' && {script}", self.desk.site.root().display());
        let done = Command::new(&wrapper[0]).args(&wrapper[1..]).args(["bash", "-c", &script]).output().unwrap();
        String::from_utf8_lossy(&done.stdout).trim().to_owned()
    }
}

/// Fills the disk at $disk to its last byte, and makes room again.
const FILL: &str = "cat /dev/zero >$disk/filler 2>/dev/null; test $(stat -f -c %a $disk) = 0 && echo full";
const FREE: &str = "rm $disk/filler && echo free";

#[test]
fn f17_f19_disks_full_out_of_inodes_or_read_only_fail_clearly_and_recover_without_a_restart() {
    let namespace = Command::new("unshare").args(["--mount", "true"]).output().unwrap();
    if !namespace.status.success() {
        // Only root may mount, and not in every container. What a full disk does to the repository is shown by the limit
        // on file sizes too.
        return;
    }
    let mut disks = OnSmallDisks::start();
    let faults = [
        (format!("disk=local; {FILL}"), "full", "No space left", format!("disk=local; {FREE}")),
        (
            "mount -o remount,nr_inodes=$(($(df --output=iused local | tail -1) + 1)) local && echo few".to_owned(),
            "few",
            "No space left",
            "mount -o remount,nr_inodes=1000 local && echo free".to_owned(),
        ),
        (
            "mount -o remount,ro local && echo ro".to_owned(),
            "ro",
            "Read-only file system",
            "mount -o remount,rw local && echo free".to_owned(),
        ),
    ];
    for (n, (fault, proof, said, cure)) in faults.iter().enumerate() {
        assert_eq!(disks.shell(fault), *proof, "the fault never fired");
        let (code, text) = disks.dump();
        assert!(
            code.is_some_and(|code| code != 0) && text.contains("/local") && text.contains(said),
            "{code:?} {text}"
        );
        assert_eq!(disks.listed(), n);
        assert_eq!(disks.shell("find local -name '*.part'"), "");
        assert_eq!(disks.shell(cure), "free");
        assert_eq!(disks.dump().0, Some(0), "after {said}");
        assert_eq!(disks.listed(), n + 1);
    }
    f17_a_full_state_directory_costs_no_backup(&mut disks, faults.len());
}

/// The state is a cache: what cannot be written there is said, and nothing else fails.
fn f17_a_full_state_directory_costs_no_backup(disks: &mut OnSmallDisks, before: usize) {
    assert_eq!(disks.shell(&format!("disk=state; {FILL}")), "full", "the fault never fired");
    let (code, text) = disks.dump();
    assert_eq!(code, Some(0), "{text}");
    assert!(disks.agent.says("cannot remember the newest catalog entry").contains("No space left"));
    assert_eq!(disks.listed(), before + 1);
    // A restore needs scratch room there, and says which.
    let restore = ["restore", "--database", "shop", "--to-database", "copy"];
    let (output, value) = disks.dbagent(&restore);
    assert_eq!(output.status.code(), Some(1), "{value}");
    let message = value["error"]["message"].as_str().unwrap();
    assert!(message.contains("/state") && message.contains("No space left"), "{message}");
    assert!(value["error"]["hint"].as_str().unwrap().contains("scratch_directory"), "{value}");
    assert_eq!(disks.desk.site.ask("SELECT count(*) FROM pg_database WHERE datname LIKE '%incomplete%'"), "0");
    assert_eq!(disks.shell(&format!("disk=state; {FREE}")), "free");
    assert_eq!(disks.dbagent(&restore).0.status.code(), Some(0));
    assert_eq!(disks.dump().0, Some(0));
    let history = disks.dbagent(&["job", "history"]).1;
    let runs = history["history"].as_array().unwrap().iter().filter(|each| !each["run"]["end"].is_null()).count();
    assert!(runs > before, "the history goes on: {history}");
}

#[test]
fn f21_an_agent_out_of_file_descriptors_fails_the_run_clearly_and_recovers_without_a_restart() {
    let desk = Desk::new();
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    let process = agent.id().to_string();
    let open = std::fs::read_dir(Path::new("/proc").join(&process).join("fd")).unwrap().count();
    let limit = |files: usize| {
        let limited = Command::new("prlimit").args(["--pid", &process, &format!("--nofile={files}:")]).status();
        assert!(limited.unwrap().success());
    };
    let mut failures = 0;
    for more in [2, 5, 9, 14] {
        limit(open + more);
        let before = listed(&desk);
        let output = desk.command(&["job", "run", "full", "--json"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() {
            failures += 1;
            assert!(text.contains("open files"), "{more}: {text}");
        }
        assert_eq!(listed(&desk), before + usize::from(output.status.success()), "{more}: {text}");
    }
    assert!(failures >= 2, "the limit never hurt");
    // Not even a request can be taken: it waits until one can.
    limit(open);
    let asked = desk.command(&["job", "run", "full", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    agent.says("cannot take a request");
    limit(1024);
    let output = asked.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() || text.contains("open files"), "{text}");
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
}

/// A memory limit over a process and its children, by cgroup (either version). Only root may make one.
#[cfg(feature = "long")]
struct MemoryLimit {
    folder: std::path::PathBuf,
    peak: &'static str,
}

#[cfg(feature = "long")]
impl MemoryLimit {
    fn of(bytes: u64) -> Self {
        let name = format!("dbagent-test-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        for (root, limit, peak) in versions {
            let folder = Path::new(root).join(&name);
            if std::fs::create_dir(&folder).is_ok() && std::fs::write(folder.join(limit), bytes.to_string()).is_ok() {
                return Self { folder, peak };
            }
            let _ = std::fs::remove_dir(&folder);
        }
        panic!("no memory cgroup can be made here: run the long tier as root");
    }

    fn over(&self, command: &Command) -> Command {
        let script = format!("echo $$ >'{}' && exec \"$0\" \"$@\"", self.folder.join("cgroup.procs").display());
        wrapped(&["bash", "-c", &script], command)
    }

    fn peak(&self) -> u64 {
        std::fs::read_to_string(self.folder.join(self.peak)).unwrap().trim().parse().unwrap()
    }
}

#[cfg(feature = "long")]
impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.folder);
    }
}

#[cfg(feature = "long")]
#[test]
fn f20_long_a_dump_far_larger_than_its_memory_limit_is_made_and_restored_within_it() {
    let s3 = crate::stage::s3::S3Server::start();
    let desk = Desk::with_s3(&s3);
    // 1.5 GB that compress well, and 300 MB that do not.
    desk.site.ask(
        "CREATE TABLE large AS SELECT n AS id, repeat(md5(n::text), 32000) AS t, NULL::bytea AS raw \
         FROM generate_series(1, 1500) n; \
         INSERT INTO large SELECT n, NULL, (SELECT string_agg(sha512((n::text || ' ' || m)::bytea), '') \
         FROM generate_series(1, 8000) m) FROM generate_series(1, 600) n",
    );
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text.replace("tables = [", "tables = ['large', ")).unwrap();
    let limit = MemoryLimit::of(160 << 20);
    let restore = ["restore", "--database", "shop", "--to-database", "copy", "--json"];
    for arguments in [&["job", "run", "full", "--json"][..], &restore] {
        let output = limit.over(&desk.command(arguments)).output().unwrap();
        assert!(output.status.success(), "{arguments:?} {:?}: {output:?}", output.status);
        assert!(limit.peak() > 8 << 20, "{arguments:?} was not under the limit");
    }
    // The limit counts the page cache too, so that it is reached; what matters is that nobody had to be killed for it.
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
}

#[cfg(feature = "long")]
#[test]
fn f20_long_a_dump_that_runs_out_of_memory_is_like_one_that_was_killed() {
    let desk = Desk::new();
    let mut died = 0;
    for megabytes in [4, 8, 12, 16, 20, 24, 32, 48] {
        let limit = MemoryLimit::of(megabytes << 20);
        let before = listed(&desk);
        let output = limit.over(&desk.command(&["job", "run", "full", "--json"])).output().unwrap();
        died += usize::from(!output.status.success());
        let now = listed(&desk);
        assert!(now == before + usize::from(output.status.success()), "{megabytes} MiB: {output:?}");
    }
    assert!(died > 0, "the limit never hurt");
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert!(verified["verified"].as_array().unwrap().iter().all(|copy| copy["good"] == true));
}
