//! The chain's protection: installing it, whether it is as installed, and one digest over all of it.

use tokio_postgres::Client;

use crate::model::audit::CHAIN;
use crate::model::digest::{Digest, Hasher};
use crate::postgres::connection::Session;
use crate::postgres::error::{PostgresError, PostgresErrorKind};

const FUNCTIONS: &str = include_str!("../../../sql/schema/055_audit_chain_trigger.sql");

const ENCODING: &str = include_str!("../../../sql/schema/052_audit_row_encoding.sql");

/// Something that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// A table, function or role.
    pub object: String,
    /// What is wrong with it.
    pub what: String,
}

/// Whether log and side tables are there.
pub async fn is_installed(session: &Session) -> Result<bool, PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/audit/is_installed.sql"), &[]).await?;
    Ok(row.get::<_, bool>(0) && row.get::<_, bool>(1))
}

/// Whether there is a log that can be chained.
pub async fn has_log(session: &Session) -> Result<bool, PostgresError> {
    Ok(session.client().query_one(include_str!("../../../sql/audit/is_installed.sql"), &[]).await?.get(0))
}

/// Puts the trigger on the log. It must be empty, or every row of it chained.
pub async fn enable_trigger(client: &Client) -> Result<(), PostgresError> {
    Ok(client.batch_execute(include_str!("../../../sql/audit/enable_trigger.sql")).await?)
}

/// Puts the trigger, the functions that it calls and their owner back as they are installed, all or nothing. Rows that came
/// without the trigger stay without a place.
pub async fn repair(session: &Session) -> Result<(), PostgresError> {
    let again = |file: &str| file.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION");
    let undo = include_str!("../../../sql/audit/undo_protection.sql");
    let enable = include_str!("../../../sql/audit/enable_trigger.sql");
    let script = format!("BEGIN;\n{undo}\n{}\n{}\n{enable}\nCOMMIT", again(ENCODING), again(FUNCTIONS));
    let done = session.batch(&script).await;
    if done.is_err() {
        session.batch("ROLLBACK").await?;
    }
    done
}

/// Chains the next rows of a log without the trigger, `batch` at most; with `stragglers` those that came late. How many.
pub async fn backfill(session: &Session, batch: u32, stragglers: bool) -> Result<u64, PostgresError> {
    let batch = i32::try_from(batch).unwrap_or(i32::MAX);
    let query = include_str!("../../../sql/audit/backfill.sql");
    let row = session.client().query_one(query, &[&batch, &stragglers]).await;
    let row = row.map_err(|error| session.failed("chain rows of the audit log", error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}

/// Whether no row has a place: a new chain, or a restore without the side tables.
pub async fn side_tables_are_empty(session: &Session) -> Result<bool, PostgresError> {
    let row = session.client().query_one(include_str!("../../../sql/audit/side_tables_are_empty.sql"), &[]).await;
    Ok(row.map_err(|error| session.failed("look at the side tables", error))?.get(0))
}

/// Whether the log has rows and none of them a place.
pub async fn lacks_places(session: &Session) -> Result<bool, PostgresError> {
    let empty = session.client().query_one(include_str!("../../../sql/audit/log_is_empty.sql"), &[]).await;
    let empty: bool = empty.map_err(|error| session.failed("look at the audit log", error))?.get(0);
    Ok(!empty && side_tables_are_empty(session).await?)
}

/// Keeps everybody from adding to the chain until the transaction ends.
pub async fn lock_head(session: &Session) -> Result<(), PostgresError> {
    let locked = session.client().query(include_str!("../../../sql/audit/lock_head.sql"), &[&CHAIN]).await;
    locked.map(|_| ()).map_err(|error| session.failed("lock the head of the chain", error))
}

/// Lets the head name place `seq`, also where its row is gone.
pub async fn set_head(session: &Session, seq: i64, hash: Option<&str>) -> Result<(), PostgresError> {
    let set = session.client().execute(include_str!("../../../sql/audit/set_head.sql"), &[&seq, &hash]).await;
    set.map(|_| ()).map_err(|error| session.failed("set the head of the chain", error))
}

/// Whether the trigger is on the log, in whatever state.
pub async fn has_trigger(client: &Client) -> Result<bool, PostgresError> {
    Ok(client.query_opt(include_str!("../../../sql/audit/trigger_state.sql"), &[]).await?.is_some())
}

/// Puts the trigger on the log where there is none and the log is empty. Whether it is there now, and whether it was
/// put there by this call. Nobody can insert in between.
pub async fn chain_if_empty(session: &Session) -> Result<(bool, bool), PostgresError> {
    let client = session.client();
    if has_trigger(client).await? {
        return Ok((true, false));
    }
    begin_alone(session).await?;
    let enabled = async {
        let empty: bool = client.query_one(include_str!("../../../sql/audit/log_is_empty.sql"), &[]).await?.get(0);
        if empty {
            enable_trigger(client).await?;
        }
        Ok::<_, PostgresError>((empty, empty))
    };
    session.settle(enabled.await).await
}

/// Begins a transaction beside which nobody writes into the log; [`Session::settle`] ends it.
pub async fn begin_alone(session: &Session) -> Result<(), PostgresError> {
    let begin = "BEGIN; SET LOCAL lock_timeout = '5s'; LOCK TABLE public.audit_logs IN SHARE ROW EXCLUSIVE MODE";
    session.batch(begin).await
}

/// Everything that is not as this version installs it. Asks for no table's contents.
pub async fn drift(session: &Session) -> Result<Vec<Drift>, PostgresError> {
    let (chain_row, close_head) = (body(0)?, body(1)?);
    let query = include_str!("../../../sql/audit/schema_drift.sql");
    let rows = session.client().query(query, &[&chain_row, &close_head]).await?;
    Ok(rows.iter().map(|row| Drift { object: row.get(0), what: row.get(1) }).collect())
}

/// Digest over tables, columns, constraints, triggers, functions, owners and privileges of the chain.
pub async fn fingerprint(session: &Session) -> Result<Digest, PostgresError> {
    let mut hasher = Hasher::default();
    for row in session.client().query(include_str!("../../../sql/audit/schema_state.sql"), &[]).await? {
        hasher.update(row.get::<_, &str>(0).as_bytes());
        hasher.update(b"\n");
    }
    Ok(hasher.finish())
}

/// The body of the function at `place` of the file that makes the trigger's functions, as PostgreSQL keeps it.
fn body(place: usize) -> Result<&'static str, PostgresError> {
    FUNCTIONS.split("$$").nth(place * 2 + 1).ok_or_else(|| {
        PostgresError::new(PostgresErrorKind::Other, "read the trigger's functions from sql/schema/055: one is missing")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_bodies_are_found() {
        assert!(body(0).unwrap().contains("previous_hash := last_hash"));
        assert!(body(1).unwrap().contains("RETURN NULL"));
        assert!(body(2).is_err());
    }
}
