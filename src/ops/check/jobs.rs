//! Jobs: is what they store new enough, and how did their last runs end. All of it is read off the status.

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::failure::Failure;
use crate::model::status::{
    CopyStatus, DumpStatus, Freshness, GoodArtifact, JobStatus, LastResult, StatusModel, age, level_in_words,
};
use crate::model::verb::Verb;
use crate::ops::check::CheckLine;

const FRESHNESS: &str = "dump-freshness";
const LAST_RUN: &str = "job-last-run";

/// A run that has not ended after this long is looked at; the scheduler has shorter limits of its own.
const LONGEST_RUN: TimeDelta = TimeDelta::hours(24);

pub(super) fn check(status: &Result<StatusModel, Failure>, now: DateTime<Utc>) -> Vec<CheckLine> {
    let status = match status {
        Ok(status) => status,
        Err(failure) => {
            return [FRESHNESS, LAST_RUN].map(|check| CheckLine::failed(check, "the status", failure)).into();
        }
    };
    let mut lines: Vec<CheckLine> = status.jobs.iter().flat_map(freshness).collect();
    if lines.is_empty() {
        let remedy = "set plan in dbagent.toml; `dbagent plan` shows its jobs";
        lines.push(CheckLine::fail(FRESHNESS, "no job that is switched on dumps anything", remedy));
    }
    match &status.history_unreadable {
        Some(why) => {
            let message = format!("failed to {why}");
            lines.push(CheckLine::fail(LAST_RUN, message, "check the state directory; a history may be deleted"));
        }
        None => lines.extend(status.jobs.iter().filter(|job| job.built).map(|job| last_run(job, now))),
    }
    lines
}

fn freshness(job: &JobStatus) -> Vec<CheckLine> {
    let Some(dump) = &job.dump else { return Vec::new() };
    if dump.copies.is_empty() {
        let message = format!("{} writes to no repository", job.name);
        return vec![CheckLine::fail(FRESHNESS, message, "add a [repository.NAME] to dbagent.toml")];
    }
    dump.copies.iter().map(|copy| freshness_in(&job.name, dump, copy)).collect()
}

fn freshness_in(job: &str, dump: &DumpStatus, copy: &CopyStatus) -> CheckLine {
    let repository = &copy.repository;
    let what = copy.newest.as_ref().map(|good| newest(good, dump)).unwrap_or_default();
    let again = format!("dbagent job run {job}");
    match copy.freshness {
        Freshness::Current => CheckLine::ok(FRESHNESS, format!("{job} in {repository}: {what}")),
        Freshness::Overdue => CheckLine::fail(FRESHNESS, format!("{job} in {repository} is overdue: {what}"), again),
        Freshness::Missing => {
            CheckLine::fail(FRESHNESS, format!("{job} has no verified artifact in {repository}"), again)
        }
        Freshness::Unknown => {
            let message = format!("{job} in {repository}: not known, the repository could not be read or believed");
            CheckLine::fail(FRESHNESS, message, "see the lines on the repository")
        }
    }
}

fn newest(good: &GoodArtifact, dump: &DumpStatus) -> String {
    let (old, level) = (age(good.age_seconds), level_in_words(good.verified.level));
    match dump.longest_age_seconds {
        Some(limit) => format!("the newest is {old} old, {level}; it may be {}", age(limit)),
        None => format!("the newest is {old} old, {level}; it has no schedule to be measured by"),
    }
}

fn last_run(job: &JobStatus, now: DateTime<Utc>) -> CheckLine {
    let name = &job.name;
    if let Some(since) = job.running_since.filter(|since| now - *since > LONGEST_RUN) {
        let message = format!("{name} was begun {} ago and has not ended", age((now - since).num_seconds()));
        return CheckLine::warn(LAST_RUN, message, "look whether the agent lives: `dbagent healthcheck`");
    }
    let running = if job.running_since.is_some() { "; another is running" } else { "" };
    let Some(last) = &job.last else {
        return CheckLine::ok(LAST_RUN, format!("{name} has not ended a run yet{running}"));
    };
    let ago = age((now - last.finished).num_seconds());
    let message = format!("{name}, {ago} ago: {}{running}", last.message);
    let remedy = format!("dbagent job history {name}");
    match last.result {
        LastResult::Ok => CheckLine::ok(LAST_RUN, message),
        // What a checklist found is found again now, or mended.
        LastResult::Findings if job.verb == Verb::Check => CheckLine::ok(LAST_RUN, message),
        LastResult::Findings | LastResult::Interrupted => CheckLine::warn(LAST_RUN, message, remedy),
        LastResult::Incomplete | LastResult::Failed => CheckLine::fail(LAST_RUN, message, remedy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::RunId;
    use crate::model::status::LastRun;
    use crate::ops::check::Status;

    fn now() -> DateTime<Utc> {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn job(verb: Verb, result: LastResult) -> JobStatus {
        let finished = now() - TimeDelta::hours(1);
        let last = LastRun { run: RunId::new(now()), started: finished, finished, result, message: "m".into() };
        JobStatus { name: "j".into(), verb, built: true, next: None, last: Some(last), running_since: None, dump: None }
    }

    #[test]
    fn a_run_that_ended_badly_turns_its_line_and_a_checklist_does_not_accuse_itself() {
        let status = |verb, result| last_run(&job(verb, result), now()).status;
        assert_eq!(status(Verb::Dump, LastResult::Ok), Status::Ok);
        assert_eq!(status(Verb::Dump, LastResult::Findings), Status::Warn);
        assert_eq!(status(Verb::Dump, LastResult::Interrupted), Status::Warn);
        assert_eq!(status(Verb::Dump, LastResult::Incomplete), Status::Fail);
        assert_eq!(status(Verb::Dump, LastResult::Failed), Status::Fail);
        assert_eq!(status(Verb::Check, LastResult::Findings), Status::Ok);
        assert_eq!(status(Verb::Check, LastResult::Failed), Status::Fail);
    }

    #[test]
    fn a_run_without_an_end_is_running_for_a_day_and_then_doubtful() {
        let mut job = job(Verb::Dump, LastResult::Ok);
        job.running_since = Some(now() - TimeDelta::hours(23));
        assert_eq!(last_run(&job, now()).status, Status::Ok);
        job.running_since = Some(now() - TimeDelta::hours(25));
        assert_eq!(last_run(&job, now()).status, Status::Warn);
    }

    #[test]
    fn a_plan_without_a_dump_fails() {
        let nothing = StatusModel {
            cluster: "c".into(),
            plan: None,
            at: now(),
            green: false,
            headline: String::new(),
            jobs: Vec::new(),
            repositories: Vec::new(),
            history_unreadable: Some("read it".into()),
            wal: Vec::new(),
            chain: None,
            partitions: Vec::new(),
            recovery: Default::default(),
            drills: Vec::new(),
            cost: None,
        };
        let lines = check(&Ok(nothing), now());
        assert_eq!(lines.iter().map(|line| line.status).collect::<Vec<_>>(), [Status::Fail, Status::Fail]);
    }
}
