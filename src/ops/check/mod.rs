//! The verb `check`: the daily checklist, a line for each check, with the remedy.
//!
//! Every check is small and stands by itself. One that cannot be carried out fails and says why: it is never left out
//! and never good by default. Nothing is changed but a small object below `probe/`, which is deleted again.

mod audit;
mod cost;
mod drills;
mod dumps;
mod jobs;
mod keys;
mod partitions;
mod repositories;
mod retention;
mod roles;
mod security;
mod server;
mod services;
mod setup;
mod wal;

use std::path::PathBuf;

use chrono::TimeDelta;
use serde::Serialize;

use crate::catalog::Repository;
use crate::host::Space;
use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Outcome, Severity, Verdict};
use crate::model::status::StatusModel;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::pipeline::openpgp::DecryptionKeys;
use crate::postgres::{ClientTools, Connection, DumpScope};
use crate::steps::wal::{Local, Thresholds};

pub use audit::AuditChain;
pub use keys::{Encryption, Keys};
pub use partitions::Partitions;
pub use retention::{HowLong, Kept, Retention};
pub use roles::Declared;
pub use security::Security;
pub use services::{Log, Services};

/// How far a clock may be from ours.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(60);

/// How a check ended; later is worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it must be.
    Ok,
    /// To be mended soon.
    Warn,
    /// A promise is broken, or it cannot be said whether it is kept.
    Fail,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckLine {
    /// A stable word for the check: `repository-round-trip`.
    pub check: &'static str,
    /// How it ended.
    pub status: Status,
    /// What was found, on what.
    pub message: String,
    /// What to do about it.
    pub remedy: Option<String>,
}

impl CheckLine {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, status: Status::Ok, message: message.into(), remedy: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, status: Status::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }

    /// `failure` of something done for `subject`.
    fn failed(check: &'static str, subject: &str, failure: &Failure) -> Self {
        let message = format!("{subject}: failed to {}", failure.full_message());
        Self { check, status: Status::Fail, message, remedy: failure.hint.clone() }
    }
}

/// What the checklist works with. A door that could not be opened is here as its failure.
#[derive(Debug)]
pub struct Doors {
    /// What the configuration warns of.
    pub warnings: Vec<String>,
    /// Scheduled jobs that this version cannot run.
    pub unbuilt: Vec<String>,
    /// Where the agent keeps its state.
    pub state_directory: PathBuf,
    /// Disk used, in percent, from which on the plan wants a failure.
    pub disk_percent: Option<u8>,
    /// Services, logs and limits that the plan names.
    pub services: Services,
    /// The security posture that the plan asks for.
    pub security: Security,
    /// Whether the plan asks what the repositories' buckets are set to.
    pub buckets: bool,
    /// The server, by the role that checks.
    pub server: Result<Connection, Failure>,
    /// The client programs.
    pub tools: Result<ClientTools, Failure>,
    /// The plan's dump jobs.
    pub dumps: Vec<Dump>,
    /// The plan's partition rules; absent where it has none.
    pub partitions: Option<Partitions>,
    /// The audit chain, where the plan verifies it.
    pub audit: Option<AuditChain>,
    /// The configured repositories.
    pub repositories: Vec<Door>,
    /// The configured keys.
    pub keys: Keys,
    /// Archived WAL; absent where the plan archives none.
    pub wal: Option<Wal>,
    /// What is protected now.
    pub status: Result<StatusModel, Failure>,
}

/// Archived WAL.
#[derive(Debug)]
pub struct Wal {
    /// The repositories that take it.
    pub repositories: Vec<Repository>,
    /// What lies in the server's pg_wal, where this machine has it.
    pub local: Option<Local>,
    /// The room of its volume.
    pub volume: Option<Space>,
    /// When a backlog or a filling disk is told.
    pub thresholds: Thresholds,
    /// What decrypts, where this host has it.
    pub keys: Option<DecryptionKeys>,
    /// End the segment being written and wait until it is archived: a person asked for that.
    pub switch: bool,
}

/// A job that dumps, or makes increments.
#[derive(Debug)]
pub struct Dump {
    /// Its name.
    pub job: String,
    /// Which of the two.
    pub verb: Verb,
    /// The database, by the role that dumps.
    pub connection: Result<Connection, Failure>,
    /// What it covers.
    pub scope: DumpScope,
}

/// A configured repository.
#[derive(Debug)]
pub struct Door {
    /// Its name.
    pub name: String,
    /// The repository.
    pub opened: Result<Repository, Failure>,
    /// Its directory, where it lies in one.
    pub directory: Option<PathBuf>,
    /// Whether the configuration wants objects locked.
    pub wants_lock: bool,
}

/// Works through the checklist.
pub async fn run(doors: &Doors, setting: &Setting) -> Vec<CheckLine> {
    let work = async {
        setting.events.step("checking the configuration and the keys");
        let mut lines = setup::check(doors);
        lines.extend(keys::check(&doors.keys, setting.clock.now()));
        lines.extend(drills::check(&doors.keys.encryption, &doors.status));
        setting.events.step("checking the server");
        lines.extend(server::check(doors, setting).await);
        lines.extend(dumps::check(&doors.dumps, setting).await);
        lines.extend(partitions::check(doors.partitions.as_ref(), setting).await);
        lines.extend(audit::check(doors.audit.as_ref(), &doors.status, setting.clock.now()).await);
        lines.extend(security::check(&doors.security, &doors.server, setting.clock.now()).await);
        setting.events.step("checking what the plan names besides");
        lines.extend(services::check(&doors.services, setting).await);
        setting.events.step("checking the repositories");
        lines.extend(repositories::check(doors, setting).await);
        lines.extend(cost::check(&doors.status));
        lines.extend(wal::check(doors, setting).await);
        lines.extend(jobs::check(&doors.status, setting.clock.now()));
        lines
    };
    tokio::select! {
        lines = work => lines,
        () = setting.stop.cancelled() => {
            let message = "the checklist was stopped before its end; nothing of it counts";
            vec![CheckLine::fail("checklist", message, "run `dbagent check` again")]
        }
    }
}

/// A failure that keeps several checks from being carried out, for one of them.
pub fn again(failure: &Failure) -> Failure {
    let same = Failure::new(failure.kind, failure.full_message());
    match &failure.hint {
        Some(hint) => same.hint(hint),
        None => same,
    }
}

/// The worst of `lines`. An empty list has checked nothing and fails.
pub fn worst(lines: &[CheckLine]) -> Status {
    lines.iter().map(|line| line.status).max().unwrap_or(Status::Fail)
}

/// `lines` counted: `21 checks: 1 failed, 2 warnings`.
pub fn summary(lines: &[CheckLine]) -> String {
    let count = |status| lines.iter().filter(|line| line.status == status).count();
    let counts = match (count(Status::Fail), count(Status::Warn)) {
        (0, 0) => "all good".to_owned(),
        (failed, 0) => format!("{failed} failed"),
        (0, warnings) => format!("{warnings} to be looked at"),
        (failed, warnings) => format!("{failed} failed, {warnings} to be looked at"),
    };
    format!("{} checks: {counts}", lines.len())
}

/// The lines as the outcome of a run.
pub fn outcome(lines: &[CheckLine]) -> Outcome {
    let findings = lines.iter().filter_map(|line| {
        let severity = match line.status {
            Status::Ok => return None,
            Status::Warn => Severity::Warning,
            Status::Fail => Severity::Critical,
        };
        let finding = Finding::new(severity, line.check, line.message.clone());
        Some(Finding { remedy: line.remedy.clone(), ..finding })
    });
    let verdict = if worst(lines) == Status::Ok { Verdict::Ok } else { Verdict::Findings };
    Outcome { verdict, findings: findings.collect(), ..Outcome::ok(summary(lines)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_that_of_the_worst_line() {
        let (ok, warn) = (CheckLine::ok("a", "fine"), CheckLine::warn("b", "soon", "mend it"));
        let fail = CheckLine::fail("c", "gone", "look for it");
        assert_eq!(worst(&[ok.clone(), warn.clone()]), Status::Warn);
        assert_eq!(worst(&[fail.clone(), ok.clone()]), Status::Fail);
        assert_eq!(worst(&[]), Status::Fail, "nothing checked is nothing good");
        assert!(outcome(std::slice::from_ref(&ok)).is_green());
        let outcome = outcome(&[ok, warn, fail]);
        assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Findings, 2));
        assert_eq!(outcome.findings[1].severity, Severity::Critical);
        assert_eq!(outcome.summary, "3 checks: 1 failed, 1 to be looked at");
    }
}
