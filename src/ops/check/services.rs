//! What the plan's `[check]` names besides the agent's own: services that must answer, logs without errors, this machine's
//! memory and processors.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::host::load::{self, ProcessorTime};
use crate::host::services;
use crate::model::failure::Failure;
use crate::ops::Setting;
use crate::ops::check::{CheckLine, again};

/// Longest wait for one service.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// How long the processors are watched.
const WATCH: Duration = Duration::from_secs(1);

/// Characters of a log's line that are shown.
const SHOWN: usize = 200;

const HTTP: &str = "service-http";
const TCP: &str = "service-tcp";
const REDIS: &str = "service-redis";
const LOG: &str = "log-errors";
const MEMORY: &str = "machine-memory";
const PROCESSORS: &str = "machine-processors";

/// What the plan names.
#[derive(Debug, Default)]
pub struct Services {
    /// Addresses that are to answer 200.
    pub http: Vec<String>,
    /// `host:port` that are to take a connection.
    pub tcp: Vec<String>,
    /// Redis servers, with their passwords where they have any.
    pub redis: Vec<(String, Result<Option<SecretString>, Failure>)>,
    /// Log files.
    pub logs: Vec<Log>,
    /// Memory used, in percent, from which on it fails.
    pub memory_percent: Option<u8>,
    /// Processor time used, in percent, from which on it fails.
    pub processor_percent: Option<u8>,
}

/// A log file.
#[derive(Debug)]
pub struct Log {
    /// Where it is.
    pub file: PathBuf,
    /// How many lines of its end are read.
    pub lines: usize,
    /// Words that make a line an error, in whatever case.
    pub words: Vec<String>,
}

pub(super) async fn check(named: &Services, setting: &Setting) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    for address in &named.http {
        lines.push(http(address, in_time(services::http_status(address)).await));
    }
    for address in &named.tcp {
        let connected = in_time(services::tcp_connects(address)).await;
        lines.push(answer(TCP, address, "it takes connections", connected));
    }
    for (address, password) in &named.redis {
        lines.push(match password {
            Ok(password) => {
                let answered = in_time(services::redis_ping(address, password.as_ref())).await;
                answer(REDIS, address, "it answers PING", answered)
            }
            Err(failure) => CheckLine::failed(REDIS, address, &again(failure)),
        });
    }
    lines.extend(named.logs.iter().map(log));
    lines.extend(named.memory_percent.map(memory));
    if let Some(limit) = named.processor_percent {
        lines.push(processors(limit, setting).await);
    }
    lines
}

async fn in_time<T>(question: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(ANSWER_TIME, question).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} seconds", ANSWER_TIME.as_secs())))
    })
}

/// An address may hold a password, which is nobody's business.
fn shown(address: &str) -> String {
    match address.split_once("://").and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?.1))) {
        Some((scheme, rest)) => format!("{scheme}://{rest}"),
        None => address.to_owned(),
    }
}

fn http(address: &str, status: io::Result<u16>) -> CheckLine {
    let address = shown(address);
    match status {
        Ok(200) => CheckLine::ok(HTTP, format!("{address}: it answers 200")),
        Ok(other) => {
            CheckLine::fail(HTTP, format!("{address}: it answers {other}, not 200"), "look at the service's own log")
        }
        Err(error) => answer(HTTP, &address, "", Err(error)),
    }
}

fn answer(check: &'static str, address: &str, good: &str, answered: io::Result<()>) -> CheckLine {
    match answered {
        Ok(()) => CheckLine::ok(check, format!("{address}: {good}")),
        Err(error) => CheckLine::fail(
            check,
            format!("{address}: {error}"),
            "check that the service runs and that this host reaches it",
        ),
    }
}

fn log(log: &Log) -> CheckLine {
    let place = log.file.display();
    let lines = match load::last_lines(&log.file, log.lines) {
        Ok(lines) => lines,
        Err(error) => {
            let message = format!("{place}: failed to read it: {error}");
            return CheckLine::fail(LOG, message, "check its path and that the agent's user may read it");
        }
    };
    let words: Vec<String> = log.words.iter().map(|word| word.to_lowercase()).collect();
    let is_error = |line: &&String| {
        let line = line.to_lowercase();
        words.iter().any(|word| line.contains(word))
    };
    let errors: Vec<&String> = lines.iter().filter(is_error).collect();
    match errors.last() {
        None => CheckLine::ok(LOG, format!("{place}: no error in its last {} lines", lines.len())),
        Some(last) => {
            let last: String = last.trim().chars().take(SHOWN).collect();
            let message =
                format!("{place}: {} of its last {} lines are errors, the newest: {last}", errors.len(), lines.len());
            CheckLine::warn(LOG, message, "read the log")
        }
    }
}

fn memory(limit: u8) -> CheckLine {
    match load::memory_percent() {
        Ok(used) => share(MEMORY, "memory", used, limit),
        Err(error) => {
            CheckLine::fail(MEMORY, format!("failed to ask for the memory: {error}"), "look at it by other means")
        }
    }
}

async fn processors(limit: u8, setting: &Setting) -> CheckLine {
    let used = async {
        let before = ProcessorTime::now()?;
        setting.clock.sleep(WATCH).await;
        Ok::<_, io::Error>(ProcessorTime::now()?.percent_since(before))
    };
    match used.await {
        Ok(used) => share(PROCESSORS, "processor time", used, limit),
        Err(error) => CheckLine::fail(
            PROCESSORS,
            format!("failed to ask for the processors: {error}"),
            "look at it by other means",
        ),
    }
}

fn share(check: &'static str, what: &str, used: u64, limit: u8) -> CheckLine {
    let message = format!("{used}% of this machine's {what} is in use; the plan's limit is {limit}%");
    match used >= u64::from(limit) {
        true => CheckLine::fail(check, message, "see what uses it, or give the machine more"),
        false => CheckLine::ok(check, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    #[test]
    fn a_limit_that_is_reached_fails() {
        assert_eq!(share(MEMORY, "memory", 89, 90).status, Status::Ok);
        assert_eq!(share(MEMORY, "memory", 90, 90).status, Status::Fail);
        assert_eq!([memory(0).status, memory(100).status], [Status::Fail, Status::Ok]);
    }

    #[test]
    fn g15_an_address_is_shown_without_its_login() {
        assert_eq!(shown("http://me:secret@host:1/x"), "http://host:1/x");
        assert_eq!(shown("http://host/a"), "http://host/a");
        let line = http("http://me:secret@127.0.0.1:1/", Ok(503));
        assert!(line.status == Status::Fail && !line.message.contains("secret") && line.message.contains("503"));
    }

    #[test]
    fn errors_at_the_end_of_a_log_are_told_and_older_ones_are_not() {
        use std::io::Write as _;
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_path_buf();
        let look = |lines| log(&Log { file: path.clone(), lines, words: vec!["error".into()] });
        file.write_all(b"an ERROR here\nfine\nfine\n").unwrap();
        assert_eq!(look(2).status, Status::Ok);
        let found = look(3);
        assert!(found.status == Status::Warn && found.message.contains("an ERROR here"), "{found:?}");
        assert_eq!(log(&Log { file: "/nowhere".into(), lines: 1, words: vec![] }).status, Status::Fail);
    }
}
