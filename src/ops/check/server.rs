//! The server as a whole: login, version, clock, and client programs that fit it.

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::failure::Failure;
use crate::ops::Setting;
use crate::ops::check::{CLOCK_TOLERANCE, CheckLine, Doors, again};
use crate::postgres::{ClientTools, Connection, ServerFacts, Session};

const MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

pub(super) async fn check(doors: &Doors, setting: &Setting) -> Vec<CheckLine> {
    let session = match &doors.server {
        Ok(connection) => connect(connection).await,
        Err(failure) => Err(again(failure)),
    };
    let facts = match &session {
        Ok(session) => ServerFacts::read(session).await.map_err(Failure::from),
        Err(failure) => Err(again(failure)),
    };
    let recovery = left_recovery(&session).await;
    vec![login(&session), version(&facts), clock(&session, setting).await, recovery, tools(&doors.tools)]
}

async fn connect(connection: &Connection) -> Result<Session, Failure> {
    Ok(connection.connect().await?)
}

fn login(session: &Result<Session, Failure>) -> CheckLine {
    match session {
        Ok(session) => CheckLine::ok("server-login", format!("{} lets us in", session.place())),
        Err(failure) => CheckLine::failed("server-login", "the server", failure),
    }
}

fn version(facts: &Result<ServerFacts, Failure>) -> CheckLine {
    const CHECK: &str = "server-version";
    let facts = match facts {
        Ok(facts) => facts,
        Err(failure) => return CheckLine::failed(CHECK, "the server", failure),
    };
    let standby = if facts.in_recovery { ", a standby" } else { "" };
    let message = format!("PostgreSQL {}{standby}", facts.version);
    match facts.major() {
        major if MAJORS.contains(&major) => CheckLine::ok(CHECK, message),
        major if major > *MAJORS.end() => {
            CheckLine::warn(CHECK, format!("{message}: dbagent was not tested with it"), "use a newer dbagent")
        }
        _ => CheckLine::fail(CHECK, format!("{message}: too old for dbagent"), "PostgreSQL 14 to 18 are supported"),
    }
}

async fn clock(session: &Result<Session, Failure>, setting: &Setting) -> CheckLine {
    const CHECK: &str = "server-clock";
    let asked = match session {
        Ok(session) => offset(session, setting).await,
        Err(failure) => Err(again(failure)),
    };
    match asked {
        Ok(offset) => judge_clock(CHECK, "the server", offset),
        Err(failure) => CheckLine::failed(CHECK, "the server's clock", &failure),
    }
}

/// How far the server's clock is ahead of ours, from the middle of the question and the answer.
async fn offset(session: &Session, setting: &Setting) -> Result<TimeDelta, Failure> {
    let before = setting.clock.now();
    let row = session.client().query_one(include_str!("../../../sql/check/clock.sql"), &[]).await;
    let row = row.map_err(|error| session.failed("ask for the time", error))?;
    let theirs: DateTime<Utc> = row.try_get(0).map_err(|error| session.failed("read the time", error))?;
    let after = setting.clock.now();
    Ok(theirs - (before + (after - before) / 2))
}

/// The line about a clock that is `offset` ahead of ours.
pub(super) fn judge_clock(check: &'static str, whose: &str, offset: TimeDelta) -> CheckLine {
    let seconds = offset.num_seconds().abs();
    let direction = if offset < TimeDelta::zero() { "behind" } else { "ahead of" };
    let message = format!("{whose}: its clock is {seconds} s {direction} ours");
    if offset.abs() > CLOCK_TOLERANCE {
        return CheckLine::warn(check, message, "let NTP set the clocks of both hosts");
    }
    CheckLine::ok(check, message)
}

async fn left_recovery(session: &Result<Session, Failure>) -> CheckLine {
    const CHECK: &str = "recovery-settings";
    let asked = match session {
        Ok(session) => {
            let rows = session.client().query(include_str!("../../../sql/check/left_recovery.sql"), &[]).await;
            let names = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<String>, _>>());
            names.map_err(|error| session.failed("ask which settings an ended recovery has left", error).into())
        }
        Err(failure) => Err(again(failure)),
    };
    match asked {
        Ok(names) if names.is_empty() => CheckLine::ok(CHECK, "no recovery has left settings behind"),
        Ok(names) => {
            let reset: Vec<_> = names.iter().map(|name| format!("ALTER SYSTEM RESET {name};")).collect();
            CheckLine::warn(
                CHECK,
                format!(
                    "{} still stand as a restore set them: every base backup carries them on, and a standby or a cluster \
                     made from one stops where that restore did",
                    names.join(", ")
                ),
                format!("{} SELECT pg_reload_conf();", reset.join(" ")),
            )
        }
        Err(failure) => CheckLine::failed(CHECK, "the server's settings", &failure),
    }
}

fn tools(tools: &Result<ClientTools, Failure>) -> CheckLine {
    match tools {
        Ok(tools) => CheckLine::ok("client-tools", tools.versions().join(", ")),
        Err(failure) => CheckLine::failed("client-tools", "the client programs", failure),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    #[test]
    fn a_clock_more_than_a_minute_off_warns_either_way() {
        let line = |seconds| judge_clock("server-clock", "the server", TimeDelta::seconds(seconds));
        assert_eq!([line(0).status, line(60).status, line(-60).status], [Status::Ok; 3]);
        assert_eq!([line(61).status, line(-61).status], [Status::Warn; 2]);
        assert_eq!(line(-61).message, "the server: its clock is 61 s behind ours");
    }
}
