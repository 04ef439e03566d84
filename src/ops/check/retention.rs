//! How long things are kept elsewhere than here: the server's logs, and the backups that a provider makes by itself.
//!
//! Of a server that keeps its logs in files of its own, the files say it; of one at Amazon RDS, the provider. What nobody
//! can say is a warning: not known is not good.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};

use crate::host::amazon_rds::{self, LogRetention, RdsDatabase};
use crate::model::failure::{Failure, FailureKind};
use crate::model::span::Span;
use crate::ops::check::{CheckLine, again};
use crate::postgres::Session;

const LOGS: &str = "log-retention";
const BACKUPS: &str = "backup-retention";

/// A server writes its first log some time after it was made.
const FIRST_LOG: TimeDelta = TimeDelta::days(1);

/// What the plan asks for.
#[derive(Debug, Default)]
pub struct Retention {
    /// How long the server's logs must be kept.
    pub logs: Option<Span>,
    /// How long backups must be kept.
    pub backups: Option<Span>,
    /// The database as its provider knows it; absent where it has none that is known.
    pub provider: Option<RdsDatabase>,
    /// Whether the plan is one for a managed server.
    pub managed: bool,
    /// Each dump job in each repository that it writes to.
    pub kept: Vec<Kept>,
}

/// How long a repository keeps what a dump job makes.
#[derive(Debug)]
pub struct Kept {
    /// The job.
    pub job: String,
    /// The repository.
    pub repository: String,
    /// How long everything is kept at least.
    pub how_long: HowLong,
}

/// How long something is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HowLong {
    /// For ever.
    Ever,
    /// For so long.
    For(Span),
    /// By rules that do not count in time.
    Unknown,
}

pub(super) async fn check(
    retention: &Retention,
    session: Result<&Session, &Failure>,
    now: DateTime<Utc>,
) -> Vec<CheckLine> {
    let mut lines = Vec::new();
    if let Some(wanted) = &retention.logs {
        let line = match (&retention.provider, retention.managed) {
            (Some(database), _) => provider_logs(database, wanted, now).await,
            (None, true) => unknown_provider(LOGS, "how long the provider keeps the server's logs"),
            (None, false) => server_logs(session, wanted, now).await.unwrap_or_else(|failure| {
                let failed = CheckLine::failed(LOGS, "the server's logs", &failure);
                let remedy = failed.remedy.unwrap_or_else(|| "the role that checks needs pg_monitor".to_owned());
                CheckLine { remedy: Some(remedy), ..failed }
            }),
        };
        lines.push(line);
    }
    if let Some(wanted) = &retention.backups {
        lines.push(own_backups(&retention.kept, wanted));
        match (&retention.provider, retention.managed) {
            (Some(database), _) => lines.push(provider_backups(database, wanted, now).await),
            (None, true) => lines.push(unknown_provider(BACKUPS, "how long the provider keeps its own backups")),
            (None, false) => {}
        }
    }
    lines
}

fn unknown_provider(check: &'static str, what: &str) -> CheckLine {
    let remedy = "name the database at Amazon RDS (rds_cluster or rds_instance in [check]), or look there yourself";
    CheckLine::warn(check, format!("it is not known {what}: the host name is none of Amazon RDS"), remedy)
}

/// Whether every dump stays as long as is asked in some repository.
fn own_backups(kept: &[Kept], wanted: &Span) -> CheckLine {
    let jobs: BTreeSet<&str> = kept.iter().map(|kept| kept.job.as_str()).collect();
    let in_some =
        |job: &str, good: &dyn Fn(&HowLong) -> bool| kept.iter().any(|kept| kept.job == job && good(&kept.how_long));
    let long_enough = |how_long: &HowLong| match how_long {
        HowLong::Ever => true,
        HowLong::For(span) => !span.may_be_shorter_than(wanted),
        HowLong::Unknown => false,
    };
    let (unknown, short): (Vec<&str>, Vec<&str>) = jobs
        .iter()
        .filter(|job| !in_some(job, &long_enough))
        .partition(|job| in_some(job, &|how_long| *how_long == HowLong::Unknown));
    let remedy = "keep them longer: `keep` of the job in the plan";
    match (jobs.is_empty(), short.as_slice(), unknown.as_slice()) {
        (true, ..) => {
            CheckLine::fail(BACKUPS, "no job dumps anything into any repository", "see the line on dump-freshness")
        }
        (_, [], []) => CheckLine::ok(BACKUPS, format!("every dump is kept for {wanted} or longer in some repository")),
        (_, [], unknown) => {
            let message = format!("kept by number, so it is not known whether for {wanted}: {}", unknown.join(", "));
            CheckLine::warn(BACKUPS, message, remedy)
        }
        (_, short, _) => {
            let message = format!("kept for less than {wanted} in every repository: {}", short.join(", "));
            CheckLine::fail(BACKUPS, message, remedy)
        }
    }
}

async fn provider_backups(database: &RdsDatabase, wanted: &Span, now: DateTime<Utc>) -> CheckLine {
    match amazon_rds::backup_retention(database).await {
        Ok(days) => judge_provider(database.name(), days, wanted, now),
        Err(why) => not_told(BACKUPS, database, &why),
    }
}

fn judge_provider(name: &str, days: u32, wanted: &Span, now: DateTime<Utc>) -> CheckLine {
    let message = match days {
        0 => format!("{name}: Amazon RDS makes no backups of its own"),
        days => format!("{name}: Amazon RDS keeps its own backups for {days} days"),
    };
    if reaches(days, wanted, now) {
        return CheckLine::ok(BACKUPS, message);
    }
    CheckLine::fail(BACKUPS, format!("{message}, and {wanted} are asked for"), "set its backup retention period")
}

async fn provider_logs(database: &RdsDatabase, wanted: &Span, now: DateTime<Utc>) -> CheckLine {
    match amazon_rds::log_retention(database).await {
        Ok(retention) => judge_group(database.name(), retention, wanted, now),
        Err(why) => not_told(LOGS, database, &why),
    }
}

fn judge_group(name: &str, retention: LogRetention, wanted: &Span, now: DateTime<Utc>) -> CheckLine {
    let remedy = "set the retention of its log group in CloudWatch Logs";
    match retention {
        LogRetention::Forever => CheckLine::ok(LOGS, format!("{name}: CloudWatch Logs keeps its log for ever")),
        LogRetention::Days(days) if reaches(days, wanted, now) => {
            CheckLine::ok(LOGS, format!("{name}: CloudWatch Logs keeps its log for {days} days"))
        }
        LogRetention::Days(days) => {
            let message = format!("{name}: CloudWatch Logs keeps its log for {days} days, and {wanted} are asked for");
            CheckLine::fail(LOGS, message, remedy)
        }
        LogRetention::NotExported => CheckLine::fail(
            LOGS,
            format!("{name}: its log is not exported to CloudWatch Logs; RDS itself keeps it for 7 days at most"),
            "export the PostgreSQL log of the database to CloudWatch Logs, and set how long it is kept there",
        ),
    }
}

fn reaches(days: u32, wanted: &Span, now: DateTime<Utc>) -> bool {
    Span::days(days).before(now) <= wanted.before(now)
}

fn not_told(check: &'static str, database: &RdsDatabase, why: &str) -> CheckLine {
    let message = format!("{}: Amazon does not tell: {why}", database.name());
    let remedy = "allow rds:DescribeDBClusters, rds:DescribeDBInstances and logs:DescribeLogGroups to this login";
    CheckLine::fail(check, message, remedy)
}

async fn server_logs(
    session: Result<&Session, &Failure>,
    wanted: &Span,
    now: DateTime<Utc>,
) -> Result<CheckLine, Failure> {
    let session = session.map_err(again)?;
    let failed = |error| session.failed("ask how logs are kept", error);
    let collector = include_str!("../../../sql/check/log_collector.sql");
    let row = session.client().query_one(collector, &[]).await.map_err(failed)?;
    let unread = |error| Failure::new(FailureKind::Failed, "read how logs are kept").because(error);
    let (collects, made): (bool, DateTime<Utc>) = (row.try_get(0).map_err(unread)?, row.try_get(1).map_err(unread)?);
    if !collects {
        let remedy = "set logging_collector = on, or look at whoever collects what the server prints";
        let message =
            "the server keeps no logs of its own (logging_collector is off): how long they are kept is not known";
        return Ok(CheckLine::warn(LOGS, message, remedy));
    }
    let oldest = include_str!("../../../sql/check/oldest_log.sql");
    let row = session.client().query_one(oldest, &[]).await.map_err(failed)?;
    Ok(judge_files(row.try_get(0).map_err(unread)?, made, wanted, now))
}

/// The oldest log must reach back as far as is asked, or to the beginning of the cluster.
fn judge_files(oldest: Option<DateTime<Utc>>, made: DateTime<Utc>, wanted: &Span, now: DateTime<Utc>) -> CheckLine {
    let days = |since: DateTime<Utc>| (now - since).num_days();
    let remedy = "keep log files longer: log_filename with a date in it, and whatever deletes old files";
    let Some(oldest) = oldest else {
        return CheckLine::fail(LOGS, "the server has no log file", "look at log_directory and logging_collector");
    };
    let message = format!("the server's oldest log is {} days old", days(oldest));
    if oldest <= wanted.before(now) {
        CheckLine::ok(LOGS, message)
    } else if oldest <= made + FIRST_LOG {
        CheckLine::ok(LOGS, format!("{message}, as is the cluster; none was lost yet"))
    } else {
        let message = format!("{message}, and {wanted} are asked for; the cluster is {} days old", days(made));
        CheckLine::fail(LOGS, message, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    fn now() -> DateTime<Utc> {
        "2026-03-31T00:00:00Z".parse().unwrap()
    }

    fn ago(days: i64) -> DateTime<Utc> {
        now() - TimeDelta::days(days)
    }

    #[test]
    fn logs_reach_back_as_far_as_is_asked_or_to_the_beginning_of_the_cluster() {
        let status = |oldest, made| judge_files(oldest, made, &Span::days(30), now()).status;
        assert_eq!(status(Some(ago(30)), ago(400)), Status::Ok);
        assert_eq!(status(Some(ago(29)), ago(400)), Status::Fail);
        assert_eq!(status(Some(ago(2)), ago(3)), Status::Ok, "a young cluster has lost nothing");
        assert_eq!(status(Some(ago(2)), ago(29)), Status::Fail, "a young cluster that has lost logs");
        assert_eq!(status(None, ago(1)), Status::Fail);
    }

    #[test]
    fn what_a_provider_keeps_is_held_against_what_is_asked() {
        let logs = |retention| judge_group("shop", retention, &Span::days(30), now()).status;
        assert_eq!([logs(LogRetention::Forever), logs(LogRetention::Days(30))], [Status::Ok; 2]);
        assert_eq!([logs(LogRetention::Days(29)), logs(LogRetention::NotExported)], [Status::Fail; 2]);
        let backups = |days| judge_provider("shop", days, &Span::days(7), now()).status;
        assert_eq!([backups(7), backups(35)], [Status::Ok; 2]);
        assert_eq!([backups(6), backups(0)], [Status::Fail; 2]);
        assert_eq!(judge_provider("shop", 30, &Span::months(1), now()).status, Status::Fail, "a month may have 31");
    }

    #[test]
    fn dumps_must_stay_long_enough_in_one_repository() {
        let kept = |job: &str, repository: &str, how_long: HowLong| Kept {
            job: job.into(),
            repository: repository.into(),
            how_long,
        };
        let line = |kept: &[Kept]| own_backups(kept, &Span::days(7));
        assert_eq!(line(&[]).status, Status::Fail, "nothing is kept at all");
        let (day, week) = (HowLong::For(Span::days(1)), HowLong::For(Span::days(7)));
        assert_eq!(line(&[kept("a", "local", day), kept("a", "s3", week)]).status, Status::Ok);
        assert_eq!(line(&[kept("a", "local", HowLong::Ever)]).status, Status::Ok);
        assert_eq!(line(&[kept("a", "local", HowLong::Unknown), kept("a", "s3", day)]).status, Status::Warn);
        let bad = line(&[kept("a", "local", week), kept("b", "local", day)]);
        assert!(bad.status == Status::Fail && bad.message.ends_with("repository: b"), "{bad:?}");
    }
}
