//! The ledger of acknowledged commits: agents are killed at random moments, their disk is lost, the far repository goes
//! away for a while. From the far repository alone, recovery to a random target on any timeline has exactly the rows that
//! a client was told of up to there.
//!
//! One client, one commit after the other: the moment, the position and the transaction that it notes after each commit
//! part its rows without doubt.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use dbagent::host::durable::temporary_directory;
use dbagent::postgres::{Connection, ConnectionRequest, Session};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{pg_ctl, walk};
use crate::stage::agent::RunningAgent;
use crate::stage::archive::{self, switch_through};

/// Jobs that a person runs; the agent itself carries WAL between the repositories.
const PLAN: &str = "description = 'the shop'\n[job.wal-sync]\nverb = 'wal-sync'\nschedule = '* * * * *'\n\
    [job.base]\nverb = 'base-backup'\nschedule = '0 2 29 2 *'\n\
    [job.base-incremental]\nverb = 'base-backup'\nkind = 'incremental'\nschedule = '0 3 29 2 *'\n";

/// One commit that the client was told of.
struct Row {
    id: u32,
    transaction: String,
    /// The server's clock after the commit.
    at: String,
    /// The end of the log after the commit.
    position: String,
    /// The restore point made after it.
    point: Option<String>,
}

/// What was written on one timeline.
struct Branch {
    timeline: u32,
    /// The branch that it left, and how many of that one's rows it took along.
    from: Option<(usize, usize)>,
    rows: Vec<Row>,
}

/// A base backup, and the branch it is of, with so many rows.
struct Base {
    id: String,
    branch: usize,
    rows: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Time,
    Transaction,
    Position,
    Name,
}

/// A place to recover to: at the row with this index of a branch.
#[derive(Clone, Debug)]
struct Target {
    branch: usize,
    row: usize,
    kind: Kind,
    exclusive: bool,
    /// The base backup to begin with, where dbagent is not to choose.
    backup: Option<String>,
    names_timeline: bool,
    delta: bool,
}

#[derive(Debug, Default)]
struct Tally {
    kills: usize,
    wipes: usize,
    absences: usize,
    bases: usize,
}

struct Campaign {
    desk: Desk,
    random: StdRng,
    session: Option<Session>,
    runtime: Runtime,
    /// Where copies go.
    copies: TempDir,
    /// Data directories of the copies that took over, the present primary last.
    successors: Vec<PathBuf>,
    branches: Vec<Branch>,
    bases: Vec<Base>,
    written: u32,
    tally: Tally,
}

impl Campaign {
    fn new(seed: u64) -> Self {
        let desk = archive::desk_with(&[("synchronous_commit", "on"), ("full_page_writes", "on")]);
        archive::rewrite_plan(&desk, |_| PLAN.to_owned());
        let far = desk.site.directory("far");
        desk.configure(&format!("[repository.far]\nurl = 'file://{}'\n", far.display()));
        archive::give(&desk);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let session = Some(runtime.block_on(desk.site.connection().connect()).unwrap());
        let branches = vec![Branch { timeline: 1, from: None, rows: Vec::new() }];
        let copies = temporary_directory("a", &crate::stage::quick_place(), desk.run_as).unwrap();
        let (bases, successors, tally) = (Vec::new(), Vec::new(), Tally::default());
        let random = StdRng::seed_from_u64(seed);
        let mut campaign =
            Self { desk, random, session, runtime, copies, successors, branches, bases, written: 0, tally };
        campaign.batch("CREATE TABLE public.ledger (id int PRIMARY KEY, line text)");
        campaign.back_up();
        campaign
    }

    fn root(&self) -> &Path {
        self.desk.site.root()
    }

    fn branch(&self) -> &Branch {
        self.branches.last().unwrap()
    }

    fn ask(&self, query: &str) -> String {
        let row = self.runtime.block_on(self.session.as_ref().unwrap().client().query_one(query, &[]));
        row.unwrap_or_else(|error| panic!("{query}: {error:?}")).get(0)
    }

    fn batch(&self, statements: &str) {
        self.runtime.block_on(self.session.as_ref().unwrap().batch(statements)).unwrap();
    }

    fn commit(&mut self) {
        self.written += 1;
        let id = self.written;
        if self.random.random_ratio(1, 8) {
            self.batch(&format!("BEGIN; INSERT INTO public.ledger VALUES (-{id}, 'taken back'); ROLLBACK"));
        }
        let transaction = self.ask(&format!(
            "WITH row AS (INSERT INTO public.ledger VALUES ({id}, 'row {id}') RETURNING 1) \
             SELECT pg_current_xact_id()::text FROM row"
        ));
        let seen = self.ask(
            "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') || ' ' \
             || pg_current_wal_insert_lsn()",
        );
        let (at, position) = seen.split_once(' ').unwrap();
        let point = self.random.random_ratio(1, 4).then(|| format!("after {id}"));
        if let Some(point) = &point {
            self.ask(&format!("SELECT pg_create_restore_point('{point}')::text"));
        }
        let row = Row { id, transaction, at: at.to_owned(), position: position.to_owned(), point };
        self.branches.last_mut().unwrap().rows.push(row);
    }

    /// Commits go on while agents come, are killed and lose their disk.
    fn disrupt(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let mut agent = RunningAgent::start(self.desk.command(&["run"]));
            if self.random.random_bool(0.8) {
                self.wait_for_the_agent();
            }
            let far = self.random.random_ratio(1, 5).then(|| self.take_away("far"));
            for _ in 0..self.random.random_range(3..25) {
                self.commit();
                if self.random.random_ratio(1, 3) {
                    self.ask("SELECT pg_switch_wal()::text");
                }
            }
            std::thread::sleep(Duration::from_millis(self.random.random_range(0..120)));
            agent.signal("KILL");
            assert_eq!(agent.wait().signal(), Some(9), "the agent was alive; it said:\n{}", agent.said());
            self.tally.kills += 1;
            if self.random.random_ratio(1, 3) {
                self.lose_the_disk();
            }
            if let Some(away) = far {
                std::fs::rename(away, self.root().join("far")).unwrap();
                self.tally.absences += 1;
            }
        }
        self.catch_up();
    }

    fn wait_for_the_agent(&self) {
        let (socket, deadline) = (self.root().join("state/agent.sock"), Instant::now() + Duration::from_secs(60));
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the agent does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// In one instant, whoever is writing there.
    fn take_away(&self, name: &str) -> PathBuf {
        let away = self.root().join(format!("{name}.away"));
        std::fs::rename(self.root().join(name), &away).unwrap();
        away
    }

    /// State, spool and the near repository are gone; their places are there, empty.
    fn lose_the_disk(&mut self) {
        for name in ["state", "local"] {
            let lost = self.take_away(name);
            let place = self.desk.site.directory(name);
            if let Some(owner) = self.desk.run_as {
                archive::give_below(&place, owner);
            }
            // A push that still writes there may hold a folder back.
            while std::fs::remove_dir_all(&lost).is_err() {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        self.tally.wipes += 1;
    }

    fn catch_up(&self) {
        let log = || match self.successors.last() {
            Some(data) => std::fs::read_to_string(data.join("dbagent-restore.log")).unwrap(),
            None => self.desk.site.server.log().join("\n"),
        };
        switch_through(&|query| self.ask(query), &log);
    }

    /// A base backup, full or incremental as may be: after a lost disk there is nothing to increment.
    fn back_up(&mut self) {
        let job = ["base", "base-incremental"][usize::from(self.random.random_bool(0.5))];
        self.desk.json(0, &["job", "run", job]);
        let (id, branch) = (bases_in(&self.desk, "far").pop().unwrap(), self.branches.len() - 1);
        self.bases.push(Base { id, branch, rows: self.branch().rows.len() });
        self.tally.bases += 1;
    }

    /// The primary is gone; a copy of the past takes its place, archive and all.
    fn take_over(&mut self) {
        let count = self.branch().rows.len();
        let taken = self.random.random_range(count / 2..count);
        let at = self.branch().rows[taken].at.clone();
        self.session = None;
        match self.successors.last() {
            None => self.desk.site.server.stop(),
            Some(data) => stop(&self.desk, data),
        }
        let data = self.copies.path().join(format!("p{}", self.branches.len() + 1));
        let to = data.display().to_string();
        let copy = ["restore", "--to", &to, "--start", "--target-time", &at, "--action", "promote", "--takeover"];
        assert_eq!(self.desk.json(0, &copy)["started"]["state"], "promoted");
        let text = std::fs::read_to_string(&self.desk.config).unwrap();
        let line = |line: &str| match line {
            line if line.starts_with("host = ") => format!("host = '{to}'\n"),
            line if line.starts_with("port = ") => "port = 5432\n".to_owned(),
            line => format!("{line}\n"),
        };
        std::fs::write(&self.desk.config, text.lines().map(line).collect::<String>()).unwrap();
        self.successors.push(data);
        self.session = Some(self.runtime.block_on(connection(&to).connect()).unwrap());
        let timeline = self.ask("SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)");
        let timeline = u32::from_str_radix(&timeline, 16).unwrap();
        self.branches.push(Branch { timeline, from: Some((self.branches.len() - 1, taken + 1)), rows: Vec::new() });
    }

    fn random_target(&mut self, mut kind: Kind) -> Target {
        let branch = self.random.random_range(0..self.branches.len());
        let rows = &self.branches[branch].rows;
        let mut row = self.random.random_range(0..rows.len());
        if kind == Kind::Name {
            match rows[..=row].iter().rposition(|row| row.point.is_some()) {
                Some(named) => row = named,
                None => kind = Kind::Time,
            }
        }
        let by_search = matches!(kind, Kind::Transaction | Kind::Name);
        // Where dbagent cannot know the place, it replays from the oldest base backup: right, and long.
        let chosen = by_search && self.random.random_ratio(31, 32);
        let present = self.line(self.branches.len() - 1).contains(&(branch, row));
        Target {
            branch,
            row,
            kind,
            exclusive: kind != Kind::Name && self.random.random_ratio(1, 4),
            backup: chosen.then(|| self.newest_base_before(branch, row)),
            names_timeline: !present || by_search || self.random.random_bool(0.5),
            delta: self.random.random_ratio(9, 10),
        }
    }

    /// Every row of `branch` and of what it branched off from, in the order of their commits.
    fn line(&self, branch: usize) -> Vec<(usize, usize)> {
        let own = (0..self.branches[branch].rows.len()).map(|row| (branch, row));
        let Some((parent, taken)) = self.branches[branch].from else { return own.collect() };
        let inherited = self.line(parent).into_iter().filter(|(of, row)| *of != parent || *row < taken);
        inherited.chain(own).collect()
    }

    fn newest_base_before(&self, branch: usize, row: usize) -> String {
        let line = self.line(branch);
        let at = line.iter().position(|place| *place == (branch, row)).unwrap();
        // A base backup is before the row that follows it.
        let is_before = |base: &&Base| match base.branch == branch {
            true => base.rows <= row,
            false => line[..at].iter().any(|(of, each)| *of == base.branch && *each >= base.rows),
        };
        self.bases.iter().rfind(is_before).unwrap_or(&self.bases[0]).id.clone()
    }

    fn expected(&self, target: &Target) -> BTreeSet<u32> {
        let line = self.line(target.branch);
        let at = line.iter().position(|place| *place == (target.branch, target.row)).unwrap();
        // The moment and the position noted are after the commit itself, and before anything else.
        let without_itself = target.exclusive && target.kind == Kind::Transaction;
        let up_to = &line[..at + usize::from(!without_itself)];
        up_to.iter().map(|(branch, row)| self.branches[*branch].rows[*row].id).collect()
    }

    /// The machine that restores has nothing of the agent's: the far repository, the keys, a configuration.
    fn move_to_a_new_host(&mut self) {
        self.lose_the_disk();
        let text = std::fs::read_to_string(&self.desk.config).unwrap();
        let local = format!("[repository.local]\nurl = 'file://{}/local'\n", self.root().display());
        assert!(text.contains(&local), "{text}");
        std::fs::write(&self.desk.config, text.replace(&local, "")).unwrap();
        std::fs::remove_dir(self.root().join("local")).unwrap();
    }

    /// Recovers `copy` to `target`; gives what is wrong with it.
    fn recover(&self, copy: &Path, target: &Target) -> Option<String> {
        let branch = &self.branches[target.branch];
        let row = &branch.rows[target.row];
        let (to, timeline) = (copy.display().to_string(), branch.timeline.to_string());
        let mut arguments = vec!["restore", "--to", &to, "--start"];
        match target.kind {
            Kind::Time => arguments.extend(["--target-time", &row.at]),
            Kind::Transaction => arguments.extend(["--target-xid", &row.transaction]),
            Kind::Position => arguments.extend(["--target-lsn", &row.position]),
            Kind::Name => arguments.extend(["--target-name", row.point.as_ref().unwrap()]),
        }
        arguments.extend(target.exclusive.then_some("--exclusive"));
        arguments.extend(target.names_timeline.then_some(["--timeline", &timeline]).into_iter().flatten());
        arguments.extend(target.backup.iter().flat_map(|id| ["--backup", id]));
        match target.delta {
            true if copy.exists() => arguments.push("--delta"),
            _ => drop(std::fs::remove_dir_all(copy)),
        }
        let told = self.desk.json(0, &arguments);
        let found = rows(copy);
        stop(&self.desk, copy);
        let expected = self.expected(target);
        let missing: Vec<_> = expected.difference(&found).collect();
        let extra: Vec<_> = found.difference(&expected).collect();
        let right = missing.is_empty() && extra.is_empty() && told["started"]["state"] == "paused";
        (!right).then(|| format!("{target:?}: {} missing {missing:?}, {} extra {extra:?}", missing.len(), extra.len()))
    }

    /// Recovers to `count` random targets, so many side by side.
    fn recover_to(&mut self, count: usize, at_once: usize) -> String {
        let kinds = [Kind::Time, Kind::Transaction, Kind::Position, Kind::Name];
        let mut targets: Vec<Target> = (0..count).map(|nth| self.random_target(kinds[nth % 4])).collect();
        // Neighbours share most of their files.
        targets.sort_by_key(|target| (target.branch, target.row));
        let next = AtomicUsize::new(0);
        let work = |copy: PathBuf| {
            let mut wrong = Vec::new();
            while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                wrong.extend(self.recover(&copy, target));
            }
            wrong
        };
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let places = (0..at_once).map(|nth| self.copies.path().join(format!("c{nth}")));
            let workers: Vec<_> = places.map(|copy| scope.spawn(|| work(copy))).collect();
            workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
        });
        assert!(wrong.is_empty(), "{} of {count} targets are wrong:\n{}", wrong.len(), wrong.join("\n"));
        let of = |kind| targets.iter().filter(|target| target.kind == kind).count();
        let kinds = kinds.map(of);
        assert!(kinds.iter().all(|count| *count > 0), "{kinds:?}");
        format!("{count} targets (time, xid, position, name: {kinds:?})")
    }

    /// How many files of the log the far repository has, and objects that no record names: pushes that were cut off.
    fn stored(&self) -> (usize, usize) {
        let files = walk(&self.root().join("far/wal"));
        let records = files.iter().filter(|path| path.extension().is_some_and(|end| end == "json")).count();
        (records, files.len() - 2 * records)
    }

    fn told(&self) -> String {
        let timelines: Vec<_> = self.branches.iter().map(|branch| branch.timeline).collect();
        let (stored, cut_off) = self.stored();
        format!(
            "{:?}, {} rows on timelines {timelines:?}; {stored} files of the log stored, {cut_off} pushes cut off",
            self.tally, self.written
        )
    }
}

impl Drop for Campaign {
    fn drop(&mut self) {
        let copies = (0..2).map(|nth| self.copies.path().join(format!("c{nth}")));
        for data in copies.chain(self.successors.iter().cloned()).filter(|data| data.exists()) {
            stop(&self.desk, &data);
        }
    }
}

fn stop(desk: &Desk, data: &Path) {
    pg_ctl(desk, &["stop", "-m", "immediate", "-s", "-D", &data.display().to_string()]);
}

fn connection(socket: &str) -> Connection {
    let request = ConnectionRequest {
        host: Some(socket.to_owned()),
        port: Some(5432),
        user: Some("postgres".to_owned()),
        database: Some("shop".to_owned()),
        ..ConnectionRequest::default()
    };
    request.resolve().unwrap()
}

/// The rows of a copy that runs.
fn rows(copy: &Path) -> BTreeSet<u32> {
    let mut psql = Command::new("psql");
    psql.args(["-XqAt", "-p", "5432", "-U", "postgres", "-d", "shop", "-c", "SELECT id FROM ledger", "-h"]).arg(copy);
    let output = psql.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).lines().map(|line| line.parse().unwrap()).collect()
}

/// So many kills on each of some timelines, with a base backup after so many of them.
fn disrupted(seed: u64, timelines: usize, kills: usize, base_every: usize) -> Campaign {
    let mut campaign = Campaign::new(seed);
    for nth in 0..timelines {
        if nth > 0 {
            campaign.take_over();
        }
        for _ in 0..kills / base_every {
            campaign.disrupt(base_every);
            campaign.back_up();
        }
        campaign.disrupt(kills % base_every);
    }
    assert!(campaign.tally.wipes > 0 && campaign.tally.absences > 0, "{}", campaign.told());
    campaign
}

#[test]
fn g2_g4_every_acknowledged_commit_is_recovered_and_none_after_the_target() {
    let mut campaign = disrupted(1, 2, 6, 4);
    println!("{}", campaign.told());
    campaign.move_to_a_new_host();
    println!("{}", campaign.recover_to(8, 1));
}

#[cfg(feature = "long")]
#[test]
fn g2_g4_long_five_hundred_kills_lose_no_acknowledged_commit_at_two_hundred_targets() {
    let mut campaign = disrupted(2, 3, 170, 10);
    println!("{}", campaign.told());
    let (stored, cut_off) = campaign.stored();
    assert!(stored >= 2000 && cut_off > 0, "{stored} files stored, {cut_off} pushes cut off");
    campaign.move_to_a_new_host();
    println!("{}: 0 rows missing, 0 extra", campaign.recover_to(210, 2));
}
