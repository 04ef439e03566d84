//! Whether what protects the audit chain is as installed: trigger, functions, owners and privileges by the catalog, and by
//! the golden rows what the functions really make of a row, whatever the server behind their text has become.

use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::failure::Failure;
use crate::postgres::Session;
use crate::postgres::audit::schema::{self, Drift};
use crate::postgres::audit::vectors;

/// How many things are named; the rest is a number.
const NAMED: usize = 5;

/// What is not as installed, as one finding, however much it is.
pub async fn finding(session: &Session) -> Result<Option<ChainFinding>, Failure> {
    let mut drift = schema::drift(session).await?;
    let fault = vectors::function_fault(session).await?;
    drift.extend(fault.map(|what| Drift { object: "audit.row_hash".to_owned(), what }));
    let Some(first) = drift.first() else { return Ok(None) };
    let all: Vec<String> = drift.iter().take(NAMED).map(|each| format!("{}: {}", each.object, each.what)).collect();
    let more = if drift.len() > all.len() { format!(" and {} more", drift.len() - all.len()) } else { String::new() };
    let finding = ChainFinding::new(FindingKind::SchemaChanged, format!("{}{more}", all.join("; ")));
    let first_bad = FirstBad { partition: Some(first.object.clone()), ..FirstBad::default() };
    Ok(Some(finding.rows(first_bad, 0)))
}
