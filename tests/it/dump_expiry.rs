//! An expiry beside a dump, an increment or a copy that is being made: what it must leave alone, and from when on not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base_expiry::{self, elsewhere, end_leases, ends_well, leases};
use crate::cli::Desk;
use crate::dump_faults::tools_with;
use crate::stage::agent::RunningAgent;
use crate::stage::objects::list;
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};
use crate::stage::site::Site;
use dbagent::ops::expire;
use dbagent::storage::Storage as _;

/// Rows that do not compress to less than two parts.
const LARGE_NOTES: &str = "UPDATE orders SET note = (SELECT encode(string_agg(sha512((orders.id::text || ' ' || m)::bytea), \
                           ''), 'base64') FROM generate_series(1, 50) m)";

/// A desk with a directory and S3, at which nothing is too young to go, and with rows enough for several parts.
struct Counter {
    desk: Desk,
    s3: S3Server,
}

/// A pg_dump that stops in the middle of what it says until it is let go.
struct Stopper {
    program: PathBuf,
}

impl Stopper {
    /// From now on pg_dump stops once it has given so many bytes, or all it has; calls that look like `passes` do not.
    fn put(desk: &Desk, passes: &str, bytes: u64) -> Self {
        let script = format!(
            "#!/bin/bash\ncase \"$*\" in *--version*|{passes}) exec REAL \"$@\";; esac\n\
             REAL \"$@\" | {{ head -c {bytes}; : > $0.stopped; until [ -e $0.free ]; do sleep 0.05; done; cat; }}\n\
             exit ${{PIPESTATUS[0]}}\n"
        );
        let directory = tools_with(&desk.site, &script);
        let text = std::fs::read_to_string(&desk.config).unwrap();
        let with = text.replace("[postgres]\n", &format!("[postgres]\nbin_directory = '{}'\n", directory.display()));
        std::fs::write(&desk.config, with).unwrap();
        Self { program: directory.join("pg_dump") }
    }

    fn await_it(&self) {
        wait_until("pg_dump is held", || self.program.with_extension("stopped").exists());
    }

    fn let_go(&self) {
        std::fs::write(self.program.with_extension("free"), "").unwrap();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Counter {
    fn new() -> Self {
        let s3 = S3Server::start();
        let desk = Desk::with_s3(&s3);
        desk.configure("part_size = '5 MiB'\n[agent]\nexpire_grace = '1 ms'\n");
        desk.site.ask(LARGE_NOTES);
        Self { desk, s3 }
    }

    /// Runs `job` up to where pg_dump is held and both repositories have some of it.
    fn hold(&self, job: &str, stopper: &Stopper) -> RunningAgent {
        let run = RunningAgent::start(self.desk.command(&["job", "run", job]));
        stopper.await_it();
        wait_until("a part of it is in S3", || self.s3_requests("PUT", "partNumber=") > 0);
        run
    }

    fn s3_requests(&self, method: &str, target: &str) -> usize {
        self.s3.requests().iter().filter(|seen| seen.method == method && seen.target.contains(target)).count()
    }

    /// Files of the directory, and uploads, objects and leases of S3 that an expiry could take.
    async fn stored(&self) -> (Vec<PathBuf>, Vec<String>) {
        let mut files = crate::recover::walk(&self.desk.site.root().join("local"));
        files.sort();
        let storage = self.s3.storage("r").await;
        let uploads = storage.unfinished().await.unwrap().into_iter().map(|upload| upload.key.to_string());
        (files, list(&storage, "").await.0.into_iter().chain(uploads).collect())
    }

    async fn has_no_leases(&self) -> bool {
        leases(&self.desk).is_empty() && list(&self.s3.storage("r").await, "leases/").await.0.is_empty()
    }

    fn verifies(&self, copies: usize) {
        let verified = self.desk.json(0, &["backup", "verify", "--deep"]);
        let verified = verified["verified"].as_array().unwrap();
        assert!(verified.len() == copies && verified.iter().all(|copy| copy["good"] == true), "{verified:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_of_another_host_takes_nothing_of_a_dump_that_runs() {
    let counter = Counter::new();
    let stopper = Stopper::put(&counter.desk, "*--schema-only*", 12_000_000);
    let run = counter.hold("full", &stopper);
    let before = counter.stored().await;
    assert!(before.1.iter().any(|key| key.ends_with(".dump.gz.gpg")), "{before:?}");
    for _ in 0..2 {
        assert_eq!(base_expiry::expire(&counter.desk, None)["verdict"], "ok");
        assert_eq!(counter.stored().await, before);
    }
    stopper.let_go();
    ends_well(run);
    assert!(counter.has_no_leases().await, "the leases are given back");
    assert_eq!(counter.s3_requests("DELETE", "uploadId="), 0);
    counter.verifies(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_whose_uploads_were_taken_is_never_committed() {
    let counter = Counter::new();
    let stopper = Stopper::put(&counter.desk, "*--schema-only*", 12_000_000);
    let mut run = counter.hold("full", &stopper);
    // It is the lease that held: without it the same expiry takes them.
    end_leases(&counter.desk);
    let storage = counter.s3.storage("r").await;
    for lease in list(&storage, "leases/").await.0 {
        storage.delete(&lease.parse().unwrap(), None).await.unwrap();
    }
    base_expiry::expire(&counter.desk, None);
    assert!(counter.s3_requests("DELETE", "uploadId=") > 0);
    stopper.let_go();
    assert!(!run.wait().success(), "{}", run.said());
    assert_eq!(counter.desk.json(0, &["backup", "list"])["backups"], serde_json::Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_takes_nothing_of_an_increment_that_runs_nor_what_it_builds_upon() {
    let counter = Counter::new();
    let desk = &counter.desk;
    (0..3).for_each(|_| drop(desk.json(0, &["job", "run", "full"])));
    desk.site.ask(LARGE_NOTES);
    let stopper = Stopper::put(desk, "*--data-only*", 1 << 40);
    let sent = counter.s3_requests("PUT", "partNumber=");
    let run = RunningAgent::start(desk.command(&["job", "run", "incremental"]));
    stopper.await_it();
    wait_until("its rows are in S3", || counter.s3_requests("PUT", "partNumber=") > sent);
    assert_eq!(leases(desk).len(), 2, "its own name and its parent");
    let before = counter.stored().await;
    assert_eq!(base_expiry::expire(desk, None)["verdict"], "ok");
    assert_eq!(counter.stored().await, before);
    let refused = elsewhere(desk, &["backup", "delete", "latest", "--yes"]).output().unwrap();
    assert_ne!(refused.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a running backup builds upon it"), "{refused:?}");
    stopper.let_go();
    ends_well(run);
    assert!(counter.has_no_leases().await);
    counter.verifies(8);
}

#[test]
fn an_increment_whose_parent_was_deleted_is_never_committed() {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    let stopper = Stopper::put(&desk, "*--data-only*", 1 << 40);
    let mut run = RunningAgent::start(desk.command(&["job", "run", "incremental"]));
    stopper.await_it();
    for file in crate::recover::walk(&desk.site.root().join("local/full")) {
        std::fs::remove_file(file).unwrap();
    }
    stopper.let_go();
    run.says("which the backup builds upon, was deleted meanwhile");
    assert!(!run.wait().success());
    assert_eq!(leases(&desk), Vec::<PathBuf>::new(), "one that failed holds nothing");
    assert!(!desk.site.root().join("local/incremental").exists());
}

#[cfg(feature = "failpoints")]
#[test]
fn what_a_killed_dump_left_stays_for_the_term_of_its_lease_and_no_longer() {
    use crate::stage::agent::MovableClock;

    let desk = Desk::new();
    desk.configure("[agent]\nexpire_grace = '1 ms'\n");
    let clock = MovableClock::new(desk.site.root());
    let failing = |fault: &str| {
        let mut command = desk.command(&["job", "run", "full"]);
        let log = desk.site.root().join("fired");
        command.env("DBAGENT_FAILPOINT", fault).env("DBAGENT_FAILPOINT_LOG", &log);
        assert!(!command.output().unwrap().status.success());
        assert!(std::fs::read_to_string(log).unwrap().contains("dump.object_committed"), "it was never reached");
    };
    let stored = || crate::recover::walk(&desk.site.root().join("local/full"));
    failing("dump.object_committed=kill");
    assert!(stored().len() > 1 && leases(&desk).len() == 1, "{:?}", stored());
    let left = stored();
    clock.set(5 * 3600 + 1800);
    base_expiry::expire(&desk, Some(&clock));
    assert_eq!(stored(), left, "whether it lives cannot be known");
    clock.set(6 * 3600 + 60);
    base_expiry::expire(&desk, Some(&clock));
    assert_eq!((desk.site.root().join("local/full").exists(), leases(&desk)), (false, Vec::new()), "with it they go");
    // One that fails by itself needs no such time.
    failing("dump.object_committed=error");
    assert_eq!((leases(&desk), stored().is_empty()), (Vec::new(), false));
    base_expiry::expire(&desk, None);
    assert!(!desk.site.root().join("local/full").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiry_takes_nothing_of_a_copy_that_is_under_way() {
    use dbagent::model::outcome::Verdict;
    use dbagent::ops::complete::{self, Completion, Doors, Options};
    use dbagent::storage::DirectoryStorage;

    let mut site = Site::new();
    let artifact = site.dump().await.unwrap().artifact.unwrap();
    let s3 = S3Server::start();
    site.add_repository("s3", Arc::new(s3.storage("r").await));
    let second = site.directory("second");
    site.add_repository("second", Arc::new(DirectoryStorage::open(&second).unwrap()));
    let copying = |from: usize, to: usize| {
        let options = Options { artifact, storage_class: Default::default(), former_systems: Vec::new() };
        let (sources, destinations) = (vec![site.repositories[from].clone()], vec![site.repositories[to].clone()]);
        let (doors, setting) = (Doors { sources, destinations, unopened: Vec::new() }, site.setting());
        async move {
            match complete::run(&options, &doors, &setting).await.unwrap() {
                Completion::Told(outcome) => assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}"),
                Completion::Impossible(reason) => panic!("{reason}"),
            }
        }
    };
    // Into S3, and out of it: each stops in the middle, with some objects there.
    for (method, from, to) in [("PUT", 0, 1), ("GET", 1, 2)] {
        let fired = s3.fired();
        s3.fault(Rule::once(method, ".dump.gz.gpg", Action::Delay(Duration::from_secs(3))));
        let beside = async {
            while s3.fired() == fired {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let repository = &site.repositories[to];
            let held = list(repository.storage.as_ref(), "").await.0;
            assert!(held.iter().any(|key| key.starts_with("leases/full/")), "{held:?}");
            clear_at_once(&site).await;
            assert_eq!(list(repository.storage.as_ref(), "").await.0, held);
        };
        tokio::join!(copying(from, to), beside);
        for repository in &site.repositories[..=to] {
            assert_eq!(list(repository.storage.as_ref(), "leases/").await.0, Vec::<String>::new());
        }
    }
    assert_eq!(site.artifacts("second").await[0].manifest.id, artifact);
}

/// An expiry of all repositories whose grace time is over at once.
async fn clear_at_once(site: &Site) {
    let options =
        expire::Options { policies: Default::default(), grace: Duration::ZERO, checkpoints: Default::default() };
    let doors = expire::Doors { repositories: site.repositories.clone(), unopened: Vec::new() };
    expire::run(&doors, &options, &site.setting()).await.unwrap();
}
