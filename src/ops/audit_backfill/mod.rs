//! Chains a log that has rows already, once: in batches of one transaction each while the application goes on writing, then
//! the last rows and the trigger under a lock that keeps writers out for as long as that takes.
//!
//! A run that dies is simply run again: what has a place is done. Rows keep their content and get new `hash` and
//! `previous_hash`; what stood there is gone, so a dump comes first. Only rows in the range of a configured formula keep their
//! hashes (`pin`), and the chain goes on from the last of them.

mod pin;

use crate::model::audit::profile::Profiles;
use crate::model::event::Event;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::schema;
use crate::postgres::{Connection, Session};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backfilled {
    /// Rows that were chained by this run.
    pub rows: u64,
    /// Of them, with the hashes that an earlier application gave them.
    pub kept: u64,
    /// Of them, while writers were kept out.
    pub under_lock: u64,
}

/// Of how many rows the hashes would stay, by `profiles`. Reads them all.
pub async fn plan(connection: &Connection, profiles: &Profiles, setting: &Setting) -> Result<u64, Failure> {
    pin::survey_only(connection, profiles, setting).await
}

/// Chains every row, `batch` at a time, and puts the trigger on the log; rows in a range of `profiles` keep their hashes. Needs
/// a superuser. `RefusedForSafety` when the log is chained already, or those rows are no chain by their formula.
pub async fn run(
    connection: &Connection,
    batch: u32,
    profiles: &Profiles,
    setting: &Setting,
) -> Result<Backfilled, Failure> {
    let session = connection.connect().await?;
    if !schema::is_installed(&session).await? {
        return Err(Failure::new(FailureKind::NothingMatches, "chain the audit log: schema audit is not installed")
            .hint("Run `dbagent audit install` first."));
    }
    if schema::has_trigger(session.client()).await? {
        return Err(Failure::new(FailureKind::RefusedForSafety, "chain the audit log: it is chained already")
            .hint("`dbagent audit verify` says whether it is whole."));
    }
    let kept = pin::pin(connection, profiles, setting).await?;
    let mut rows = kept;
    // In order, then those that were committed behind the place where the first pass was.
    for stragglers in [false, true] {
        loop {
            setting.require_going_on("go on chaining the audit log")?;
            let done = schema::backfill(&session, batch, stragglers).await?;
            rows += done;
            setting.events.tell(Event::Progress { bytes: 0, expected_bytes: None, rows });
            if done == 0 {
                break;
            }
        }
    }
    setting.events.step("chaining the last rows, and closing the log to what is not chained");
    let under_lock = finish(&session, batch).await?;
    Ok(Backfilled { rows: rows + under_lock, kept, under_lock })
}

async fn finish(session: &Session, batch: u32) -> Result<u64, Failure> {
    schema::begin_alone(session).await?;
    let last = async {
        let mut rows = 0;
        loop {
            match schema::backfill(session, batch, true).await? {
                0 => break,
                done => rows += done,
            }
        }
        schema::enable_trigger(session.client()).await?;
        Ok::<_, Failure>(rows)
    };
    session.settle(last.await).await
}
