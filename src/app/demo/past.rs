//! The claim "PITR": rows deleted by accident come back as they were the moment before, from base backup and log.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::app::demo::Guide;
use crate::app::demo::stage::{DATABASE, Stage};
use crate::app::demo::tour::require;
use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::Verdict;
use crate::model::table::{QualifiedTable, TableName};
use crate::model::verb::Verb;
use crate::ops::recover::{self, Action, Options, Target};
use crate::ops::restore::{TableMode, TableOptions};
use crate::postgres::databases::literal;
use crate::postgres::{Session, copy, tables};

const TABLE: &str = "sessions";
/// What is written after the base backup and before the accident: only the log has it.
const WORK: &str =
    "UPDATE public.sessions SET user_agent = 'after the base backup' WHERE id < '40000000-0000-0000-0000-000000000000'";
const ACCIDENT: &str = "DELETE FROM public.sessions";
/// Longest wait for the archiver.
const PATIENCE: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Deletes every row of a table, and restores it as it was a moment before.
pub(super) async fn went_back(stage: &Stage, guide: &Guide) -> Result<String, Failure> {
    let session = session(stage).await?;
    let command = format!("{} wal push \"%p\"", stage.app.command()?);
    guide.events.note(format!("\narchive_command = '{command}'"));
    session.batch(&format!("ALTER SYSTEM SET archive_command = {}", literal(&command))).await?;
    session.batch("SELECT pg_catalog.pg_reload_conf()").await?;
    let done = back(stage, &session, guide).await;
    // Nothing of ours is to be called while the stage is cleared away.
    session.batch("ALTER SYSTEM RESET archive_command").await?;
    session.batch("SELECT pg_catalog.pg_reload_conf()").await?;
    done
}

async fn back(stage: &Stage, session: &Session, guide: &Guide) -> Result<String, Failure> {
    let (app, setting) = (&stage.app, stage.app.setting(guide.events.clone(), guide.stop.clone()));
    guide.events.note("\n$ dbagent job run base".to_owned());
    let outcome = app.run_job("base", None, &setting).await?;
    require(outcome.verdict == Verdict::Ok, || format!("make a base backup: {}", outcome.summary))?;
    session.batch(WORK).await?;
    let (before, moment) = (sum(session).await?, now(session).await?);
    session.batch(ACCIDENT).await?;
    require(sum(session).await?.rows == 0 && before.rows > 0, || format!("delete the rows of {TABLE}"))?;
    let shown = moment.to_rfc3339_opts(SecondsFormat::Micros, true);
    guide
        .events
        .note(format!("\nAn accident after {shown}: DELETE without WHERE, {} rows of {TABLE} are gone.", before.rows));
    archive(session, guide).await?;

    guide.events.note(format!("\n$ dbagent restore --table {TABLE} --target-time {shown} --mode replace --yes"));
    let doors = app.past_doors(None, None).await?;
    let options = options(moment);
    let plan = recover::plan(&options, &doors.recover, &setting).await?;
    let table = TableOptions {
        table: TableName { schema: Some("public".to_owned()), name: TABLE.to_owned() },
        mode: TableMode::Replace,
        plan_only: false,
        lock_timeout: Duration::from_secs(10),
        reindex: false,
    };
    let done = app.restore_past_table(&plan, &options, &table, &doors, &setting).await?;
    let after = sum(session).await?;
    require(after == before, || format!("make {TABLE} what it was: {} rows of {}", after.rows, before.rows))?;
    let fetched: f64 = done.restored.phases.iter().map(|(_, seconds)| seconds).sum();
    Ok(format!(
        "A copy of the cluster was laid down from the base backup ({fetched:.1} s), recovered to that moment from {} archived \
         segments ({:.1} s), and {} rows brought from it into the live table, equal to what they were; the copy is gone.",
        plan.reach.segments, done.started.seconds, after.rows
    ))
}

fn options(moment: DateTime<Utc>) -> Options {
    Options {
        to: std::path::PathBuf::new(),
        target: Target::Time(moment),
        exclusive: false,
        timeline: None,
        backup: None,
        action: Action::Pause,
        if_empty: false,
        delta: false,
        tablespaces: Vec::new(),
        takeover: false,
        accept_unsigned: false,
    }
}

/// Ends the segment being written and waits until it is archived.
async fn archive(session: &Session, guide: &Guide) -> Result<(), Failure> {
    let ask = |query: &'static str| async move {
        let row = session.client().query_one(query, &[]).await;
        row.map(|row| row.get::<_, String>(0)).map_err(|error| session.failed("look after the archiver", error))
    };
    let ended = ask("SELECT pg_catalog.pg_walfile_name(pg_catalog.pg_switch_wal())").await?;
    let deadline = guide.clock.monotonic() + PATIENCE;
    // Other names than segments' are archived too: a label's begins with its segment's.
    while ask("SELECT coalesce(last_archived_wal, '') FROM pg_catalog.pg_stat_archiver").await? < ended {
        guide.require_going_on()?;
        if guide.clock.monotonic() > deadline {
            let message = format!("archive the segment {ended}: PostgreSQL's archiver did not within a minute");
            return Err(Failure::new(FailureKind::Failed, message));
        }
        guide.clock.sleep(ASK_EVERY).await;
    }
    Ok(())
}

async fn sum(session: &Session) -> Result<TableSum, Failure> {
    let table = QualifiedTable::new("public", TABLE);
    let columns = tables::columns(session.client(), &table).await?;
    Ok(copy::sum_table(session, &table, &columns).await?)
}

/// The server's clock.
async fn now(session: &Session) -> Result<DateTime<Utc>, Failure> {
    let row = session.client().query_one("SELECT pg_catalog.clock_timestamp()", &[]).await;
    Ok(row.map_err(|error| session.failed("ask the time", error))?.get(0))
}

async fn session(stage: &Stage) -> Result<Session, Failure> {
    Ok(copy::connect(&stage.app.connection(Verb::Dump, Some(DATABASE))?, "UTF8").await?)
}
