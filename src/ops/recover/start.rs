//! Starting the copy and following its recovery to the target.
//!
//! The server listens on a socket in its own directory and nowhere else, lets its own user in, and archives nothing. The
//! surprising thing: recovery that runs out of log before a target time ends with an error, although the copy then has
//! exactly what was committed by that time, where it came to the end of what was planned and the time is one that this log
//! is known to cover; the target is then moved to the last position replayed, and recovery ends there as asked.
//! Another: a transaction that had locked a table and not ended by the target keeps it locked for as long as the copy is
//! paused, so that whoever reads it waits without end (manual, "Hot Standby", "Handling Query Conflicts"). Ending recovery
//! rolls it back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::host::{ChildSpec, durable, run_to_end};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::Lsn;
use crate::ops::Setting;
use crate::ops::recover::configure;
use crate::ops::recover::target::{Action, Target};
use crate::ops::recover::{Options, Plan, Restored, release};
use crate::postgres::{Connection, ConnectionRequest, PostgresErrorKind as Kind, find_tool};

/// Longest a recovery may take to come to its first consistent state, in seconds, as pg_ctl takes it.
const CONSISTENT_SECONDS: u64 = 24 * 3600;
/// Longest that leaving recovery at the target may take, in seconds: it replays nothing.
const PROMOTE_SECONDS: u64 = 600;
/// Longest that stopping the copy may take, in seconds, each way.
const STOP_SECONDS: u64 = 60;
const ASK_EVERY: Duration = Duration::from_millis(200);
const LOG: &str = "dbagent-restore.log";
const LOG_LIMIT: u64 = 64 << 20;
const RAN_OUT: &str = "recovery ended before configured recovery target was reached";
const PAUSES_AT_TARGET: &str = "pausing at the end of recovery";
const TOO_LOW: &str = "is a lower setting than on the primary";
const PORT: u16 = 5432;
/// What PostgreSQL calls it, and what a copy is then said to be.
const PAUSED: &str = "paused";
const PROMOTED: &str = "promoted";

/// What starts a copy.
#[derive(Clone, Debug)]
pub struct Starter {
    /// Folder of PostgreSQL's programs; searched for when absent.
    pub bin_directory: Option<PathBuf>,
    /// A role of the copy that may log in.
    pub user: String,
    /// A database of the copy.
    pub database: String,
    /// Settings over the cluster's own, by name.
    pub settings: Vec<(&'static str, String)>,
    /// Whether everything in the copy has to be readable, and it is thrown away afterwards: recovery is then ended at its
    /// target where a transaction that had not ended locks anything.
    pub is_thrown_away: bool,
}

/// A copy that has reached its target.
#[derive(Clone, Debug, Serialize)]
pub struct Started {
    /// Directory of its socket.
    pub socket: PathBuf,
    /// Its port there.
    pub port: u16,
    /// What it is now: paused, promoted, or shut down.
    pub state: String,
    /// Position replayed last.
    pub replayed: Option<String>,
    /// When the last replayed transaction was committed.
    pub last_commit: Option<DateTime<Utc>>,
    /// Seconds from its start to the target.
    pub seconds: f64,
    /// What cannot be read for as long as it is paused, because a transaction that had not ended by the target locks it:
    /// quoted names, or numbers where it is in another database.
    pub locked: Vec<String>,
}

/// Starts the copy and follows it to the target; what it was made of may then expire. Errors when it does not get there,
/// with the server's own words, or when the run is told to stop: its server is stopped then.
pub async fn start(
    plan: &Plan,
    options: &Options,
    restored: &Restored,
    starter: &Starter,
    setting: &Setting,
) -> Result<Started, Failure> {
    let began = setting.clock.monotonic();
    let copy = Copy { directory: &restored.directory, owner: restored.owner, starter, plan, options, setting };
    copy.prepare()?;
    setting.events.step("recovering");
    let mut started = match copy.reach_target().await {
        Err(failure) if setting.stop.is_cancelled() && failure.kind == FailureKind::Failed => {
            return Err(copy.stopped(failure).await);
        }
        reached => reached?,
    };
    let believed = match copy.require_target(&started) {
        Ok(()) => copy.settle(&mut started).await,
        Err(failure) => Err(failure),
    };
    if let Err(failure) = believed {
        copy.stop().await;
        return Err(failure);
    }
    started.seconds = (setting.clock.monotonic() - began).as_secs_f64();
    release(plan, &restored.leases, setting).await;
    Ok(started)
}

struct Copy<'a> {
    directory: &'a Path,
    owner: Option<(u32, u32)>,
    starter: &'a Starter,
    plan: &'a Plan,
    options: &'a Options,
    setting: &'a Setting,
}

impl Copy<'_> {
    fn socket(&self) -> PathBuf {
        self.directory.to_owned()
    }

    /// Who may log in while the copy is looked at: whoever can enter its directory.
    fn prepare(&self) -> Result<(), Failure> {
        if !durable::fits_a_socket(&self.socket(), ".s.PGSQL.5432") {
            let message = format!("start the copy in {}: the path is too long for a socket", self.directory.display());
            return Err(Failure::new(FailureKind::Usage, message).hint("Restore into a directory with a shorter path."));
        }
        let written = durable::replace(&self.directory.join("dbagent-restore.hba"), b"local all all trust\n");
        written.map_err(|error| Failure::new(FailureKind::Failed, "start the copy").because(error))
    }

    fn pg_ctl(&self, arguments: Vec<String>, seconds: u64) -> Result<ChildSpec, Failure> {
        let program = find_tool(self.starter.bin_directory.as_deref(), "pg_ctl")?;
        let directory = Some(self.directory.to_owned());
        let total = Some(Duration::from_secs(seconds + 60));
        Ok(ChildSpec { run_as: self.owner, directory, total, ..ChildSpec::new(program, arguments) })
    }

    /// Brings it to the target, or to the end of a log that is known to cover it.
    async fn reach_target(&self) -> Result<Started, Failure> {
        let failure = match self.run().await {
            Ok(started) => return Ok(started),
            Err(failure) => failure,
        };
        // It may run out before or after it can be read.
        let said = self.log();
        match (&self.options.target, last_position(&said)) {
            (Target::Time(target), Some(position)) if said.contains(RAN_OUT) => {
                self.require_end_of_log(Some(position))?;
                self.require_covered(*target)?;
                self.setting.events.note(format!("nothing was committed after the target: ending at {position}"));
                configure::end_at_position(self.directory, position)?;
                self.stop().await;
                self.run().await
            }
            _ => Err(failure),
        }
    }

    /// Starts it and follows it to the target.
    async fn run(&self) -> Result<Started, Failure> {
        self.launch().await?;
        self.follow().await
    }

    /// Makes sure that a server which has given up is gone before the next one is started.
    async fn stop(&self) {
        // It fails where there is nothing left to stop.
        let _gone = self.control(&["stop", "-s", "-m", "immediate"], STOP_SECONDS).await;
    }

    /// The same without losing what was replayed: started again, it goes on from there.
    async fn stop_in_order(&self) {
        if self.starter.is_thrown_away || self.control(&["stop", "-s", "-m", "fast"], STOP_SECONDS).await.is_err() {
            self.stop().await;
        }
    }

    /// Does to its server what pg_ctl calls so.
    async fn control(&self, words: &[&str], seconds: u64) -> Result<(), Failure> {
        let place = ["-t".to_owned(), seconds.to_string(), "-D".to_owned(), self.directory.display().to_string()];
        let spec = self.pg_ctl(words.iter().map(|word| (*word).to_owned()).chain(place).collect(), seconds)?;
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(FailureKind::Failed, format!("{} the copy in {}", words[0], self.directory.display()))
                .because(error)
                .hint(format!("Its log is {}.", self.directory.join(LOG).display()))
        };
        let limit = Duration::from_secs(seconds + 10);
        let ran = tokio::task::spawn_blocking(move || run_to_end(&spec, limit)).await;
        ran.map_err(|error| failed(error.into()))?.map(drop).map_err(|error| failed(error.into()))
    }

    /// Of a run that was told to stop: no server of it stays, and `failure` says what does.
    async fn stopped(&self, failure: Failure) -> Failure {
        self.setting.events.step("stopping the copy");
        self.stop_in_order().await;
        let place = self.directory.display();
        if self.directory.join("postmaster.pid").exists() {
            return failure.hint(format!("Its server still runs: pg_ctl -D {place} stop -m immediate"));
        }
        failure.hint(format!(
            "Its server is stopped; the files in {place} are whole and stay. `pg_ctl -D {place} start` goes on to the \
             target, and so does this command with --delta."
        ))
    }

    /// Sees to what transactions that had not ended by the target keep locked in a copy that is paused there.
    async fn settle(&self, started: &mut Started) -> Result<(), Failure> {
        if started.state != PAUSED {
            return Ok(());
        }
        started.locked = self.locked().await?;
        if self.starter.is_thrown_away && !started.locked.is_empty() {
            let count = started.locked.len();
            let message =
                format!("ending recovery here: {count} relations are locked by transactions that had not ended");
            self.setting.events.note(message);
            self.control(&["promote", "-w", "-s"], PROMOTE_SECONDS).await?;
            started.state = PROMOTED.to_owned();
            started.locked.clear();
        }
        Ok(())
    }

    async fn locked(&self) -> Result<Vec<String>, Failure> {
        let session = self.connection()?.connect().await?;
        let rows = session.client().query(include_str!("../../../sql/recovery/locked.sql"), &[]).await;
        let rows = rows.map_err(|error| session.failed("ask what is locked in the copy", error))?;
        Ok(rows.iter().map(|row| row.get("name")).collect())
    }

    fn connection(&self) -> Result<Connection, Failure> {
        let request = ConnectionRequest {
            host: Some(self.socket().display().to_string()),
            port: Some(PORT),
            user: Some(self.starter.user.clone()),
            database: Some(self.starter.database.clone()),
            ..ConnectionRequest::default()
        };
        Ok(request.resolve()?)
    }

    /// Starts it and waits until it can be read or has ended.
    async fn launch(&self) -> Result<(), Failure> {
        let directory = self.directory.display().to_string();
        let settings = [
            ("listen_addresses", String::new()),
            ("unix_socket_directories", self.socket().display().to_string()),
            ("port", PORT.to_string()),
            ("hba_file", self.directory.join("dbagent-restore.hba").display().to_string()),
            ("logging_collector", "off".to_owned()),
            ("log_destination", "stderr".to_owned()),
            ("log_min_messages", "warning".to_owned()),
            ("lc_messages", "C".to_owned()),
            ("hot_standby", "on".to_owned()),
        ];
        let settings = settings.into_iter().chain(self.starter.settings.iter().cloned());
        let quoted = settings.map(|(name, value)| format!("-c {name}='{}'", value.replace('\'', "'\\''")));
        let quoted: Vec<String> = quoted.collect();
        let arguments =
            ["start", "-w", "-s", "-D", &directory, "-t", &CONSISTENT_SECONDS.to_string()].map(str::to_owned);
        let log = self.directory.join(LOG).display().to_string();
        let arguments =
            arguments.into_iter().chain(["-l".to_owned(), log, "-o".to_owned(), quoted.join(" ")]).collect();
        // What the server runs to fetch the log may need the credentials that only the environment has.
        let spec = ChildSpec { inherits_all: true, ..self.pg_ctl(arguments, CONSISTENT_SECONDS)? };
        let mut running =
            tokio::task::spawn_blocking(move || run_to_end(&spec, Duration::from_secs(CONSISTENT_SECONDS)));
        let ran = async {
            (&mut running).await.map_err(|error| Failure::new(FailureKind::Failed, "start the copy").because(error))
        };
        let ran = self.setting.unless_stopped("start the copy", ran).await;
        if self.setting.stop.is_cancelled() {
            // The server may not have come so far that it can be stopped; pg_ctl ends once it is gone, or is there.
            while !running.is_finished() {
                self.stop_in_order().await;
                self.setting.clock.sleep(ASK_EVERY).await;
            }
        }
        match ran? {
            Ok(_) => Ok(()),
            // A server that shuts down at its target may be gone before pg_ctl has seen it.
            Err(_) if self.options.action == Action::Shutdown && self.log().contains("shutdown at recovery target") => {
                Ok(())
            }
            Err(error) => Err(self.failed(error.to_string())),
        }
    }

    fn log(&self) -> String {
        let bytes = durable::read_bounded(&self.directory.join(LOG), LOG_LIMIT).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Of a recovery that pauses on its way: the log asks for a setting that is higher than when the backup was made
    /// (manual, "Administrator's Overview" of hot standby). It is stopped, so that nobody takes it for the copy.
    async fn held_up(&self) -> Failure {
        self.stop().await;
        let log = self.log();
        let mut details = log.lines().filter_map(|line| line.split_once("DETAIL:")).map(|(_, why)| why.trim());
        let why = details.rfind(|why| why.contains(TOO_LOW));
        let message = format!(
            "recover the copy in {}: it paused before its target: {}",
            self.directory.display(),
            why.unwrap_or("PostgreSQL does not say why")
        );
        Failure::new(FailureKind::Failed, message).hint(format!(
            "Raise the setting in {}, and start the copy with pg_ctl: it goes on from there.",
            self.directory.join("postgresql.auto.conf").display()
        ))
    }

    fn failed(&self, why: String) -> Failure {
        let log = self.log();
        // The last ones, and what our own fetch said: PostgreSQL knows its exit code alone.
        let of_server = |line: &&str| ["FATAL", "PANIC", "ERROR"].iter().any(|level| line.contains(level));
        let of_fetch = |line: &&str| line.starts_with("error: failed to ");
        let told: Vec<&str> = log.lines().filter(|line| of_server(line) || of_fetch(line)).collect();
        let last: Vec<&str> = told.iter().rev().take(3).rev().copied().collect();
        let message = format!(
            "recover the copy in {}: {}",
            self.directory.display(),
            if last.is_empty() { why } else { last.join(" / ") }
        );
        Failure::new(FailureKind::Failed, message).hint(format!("Its log is {}.", self.directory.join(LOG).display()))
    }

    /// Asks until it is paused, promoted or shut down.
    async fn follow(&self) -> Result<Started, Failure> {
        let connection = self.connection()?;
        loop {
            self.setting.require_going_on("follow the recovery")?;
            let asked = async {
                let session = connection.connect().await?;
                let row = session.client().query_one(include_str!("../../../sql/recovery/progress.sql"), &[]).await;
                row.map_err(|error| session.failed("ask how far recovery is", error))
            };
            match self.setting.unless_stopped("follow the recovery", async { Ok(asked.await) }).await? {
                Ok(row) => {
                    let (recovering, paused): (bool, String) = (row.get("recovering"), row.get("paused"));
                    let replayed: Option<String> = row.get("replayed");
                    if paused == PAUSED && !self.log().contains(PAUSES_AT_TARGET) {
                        return Err(self.held_up().await);
                    }
                    if !recovering || paused == PAUSED {
                        let state = if recovering { PAUSED } else { PROMOTED };
                        return Ok(Started { replayed, last_commit: row.get("last_commit"), ..self.now(state) });
                    }
                    self.setting.events.note(format!(
                        "replayed up to {} of {}",
                        replayed.unwrap_or_default(),
                        self.plan.reach.end
                    ));
                }
                Err(error) => {
                    let is_gone = !self.directory.join("postmaster.pid").exists();
                    let at_target = self.log().contains("shutdown at recovery target");
                    if self.options.action == Action::Shutdown && at_target && is_gone {
                        return Ok(self.now("shut down"));
                    }
                    // A role or a database that is not there will not come.
                    let is_refused =
                        matches!(error.kind, Kind::Authentication | Kind::MissingObject | Kind::Permission);
                    if is_gone || is_refused {
                        return Err(self.failed(error.full_message()));
                    }
                }
            }
            self.setting.clock.sleep(ASK_EVERY).await;
        }
    }

    fn now(&self, state: &str) -> Started {
        let (socket, state) = (self.socket(), state.to_owned());
        Started { socket, port: PORT, state, replayed: None, last_commit: None, seconds: 0.0, locked: Vec::new() }
    }

    /// Errors unless the log was replayed into the last segment that was stored when this was planned: what ends before it
    /// is not the end of the log. `position` is that of the last record, or the one behind it.
    fn require_end_of_log(&self, position: Option<Lsn>) -> Result<(), Failure> {
        let last = self.plan.reach.last;
        let begins = self.plan.base.segment_size().and_then(|size| last.start(size));
        if position > begins && begins.is_some() {
            return Ok(());
        }
        let message = format!(
            "believe the copy in {}: its recovery ended at {}, before the last segment that was stored, {last}",
            self.directory.display(),
            position.map_or("a position that is not known".to_owned(), |position| position.to_string())
        );
        Err(Failure::new(FailureKind::Integrity, message).hint(format!(
            "Do not use it: what was committed behind that position is not in it. Its log {} says what could not be read; an \
             earlier target, or another repository, may do without.",
            self.directory.join(LOG).display()
        )))
    }

    /// Errors unless everything acknowledged by `target` is known to be in the log that there is. Only where no later
    /// commit was seen: PostgreSQL has not come to the target then.
    fn require_covered(&self, target: DateTime<Utc>) -> Result<(), Failure> {
        let until = self.plan.reach.until;
        if target <= until {
            return Ok(());
        }
        let show = |instant: DateTime<Utc>| instant.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let message = format!(
            "recover to {}: the archived log has no commit after it, and is known to be whole only up to {}",
            show(target),
            show(until)
        );
        Err(Failure::new(FailureKind::OutsideWindow, message)
            .hint(format!("Restore to {}, or wait until the next segment is archived.", show(until))))
    }

    /// The last replayed commit must not be later than the target, and the end must not come early.
    fn require_target(&self, started: &Started) -> Result<(), Failure> {
        match (&self.options.target, started.last_commit) {
            (Target::Latest, _) => {
                self.require_end_of_log(started.replayed.as_deref().and_then(|position| position.parse().ok()))
            }
            (Target::Time(target), Some(last)) if last > *target => {
                let message = format!(
                    "believe the copy in {}: it has a commit of {last}, after the target {target}",
                    self.directory.display()
                );
                Err(Failure::new(FailureKind::Integrity, message).hint("Do not use it; the server's log is beside it."))
            }
            _ => Ok(()),
        }
    }
}

/// Where redo ended, as the server's log says it: `redo done at 0/5000148 system usage: …`.
fn last_position(log: &str) -> Option<Lsn> {
    let (_, after) = log.rsplit_once("redo done at ")?;
    after.split_whitespace().next()?.parse().ok()
}
