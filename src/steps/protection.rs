//! Whether what protects the audit chain is as installed: trigger, functions, owners and privileges by the catalog, and by
//! the golden rows what the functions really make of a row, whatever the server behind their text has become.

use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::failure::Failure;
use crate::postgres::audit::schema::{self, Drift};
use crate::postgres::audit::vectors;
use crate::postgres::{PostgresErrorKind, Session};

/// How many things are named; the rest is a number.
const NAMED: usize = 5;

/// What is not as installed, as one finding, however much it is. `session` must be in a transaction.
pub async fn finding(session: &Session) -> Result<Option<ChainFinding>, Failure> {
    let mut drift = schema::drift(session).await?;
    if drift.is_empty() {
        let fault = function_fault(session).await?;
        drift.extend(fault.map(|what| Drift { object: "audit.row_hash".to_owned(), what }));
    }
    let Some(first) = drift.first() else { return Ok(None) };
    let all: Vec<String> = drift.iter().take(NAMED).map(|each| format!("{}: {}", each.object, each.what)).collect();
    let more = if drift.len() > all.len() { format!(" and {} more", drift.len() - all.len()) } else { String::new() };
    let finding = ChainFinding::new(FindingKind::SchemaChanged, format!("{}{more}", all.join("; ")));
    let first_bad = FirstBad { partition: Some(first.object.clone()), ..FirstBad::default() };
    Ok(Some(finding.rows(first_bad, 0)))
}

/// What the golden rows show of the functions. A function that raises is as bad as one that hashes otherwise: the
/// transaction goes on as if it had not been called.
async fn function_fault(session: &Session) -> Result<Option<String>, Failure> {
    session.batch("SAVEPOINT golden_rows").await?;
    match vectors::function_fault(session).await {
        Err(error) if is_of_the_function(error.kind) && !session.is_closed() => {
            session.batch("ROLLBACK TO SAVEPOINT golden_rows").await?;
            Ok(Some(format!("cannot be called: {}", error.full_message())))
        }
        ended => Ok(ended?),
    }
}

/// Whether an error is what a function's text gives rise to, and not the server's or the network's state.
fn is_of_the_function(kind: PostgresErrorKind) -> bool {
    matches!(kind, PostgresErrorKind::Other | PostgresErrorKind::MissingObject | PostgresErrorKind::Permission)
}
