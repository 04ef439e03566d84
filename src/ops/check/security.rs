//! The security posture that the plan asks for: TLS in force, tables with row-level security, audit triggers.

use crate::model::failure::Failure;
use crate::model::table::TableName;
use crate::ops::check::{CheckLine, again};
use crate::postgres::{Connection, Session};

const TLS: &str = "server-tls";
const ROWS: &str = "row-level-security";
const TRIGGERS: &str = "audit-triggers";

/// What the plan asks for.
#[derive(Debug, Default)]
pub struct Security {
    /// Whether our connection must be by TLS.
    pub tls: bool,
    /// Tables that must have row-level security.
    pub row_level_security: Vec<TableName>,
    /// Tables that must have an audit trigger.
    pub audit_triggers: Vec<TableName>,
}

/// What the server says of a table.
struct Guarded {
    row_level_security: bool,
    audit_triggers: i64,
}

pub(super) async fn check(security: &Security, server: &Result<Connection, Failure>) -> Vec<CheckLine> {
    let asked = security.tls || !security.row_level_security.is_empty() || !security.audit_triggers.is_empty();
    if !asked {
        return Vec::new();
    }
    let session = match server {
        Ok(connection) => connection.connect().await.map_err(Failure::from),
        Err(failure) => Err(again(failure)),
    };
    let mut lines = Vec::new();
    if security.tls {
        lines.push(line(TLS, "the connection", tls(session.as_ref()).await));
    }
    for table in &security.row_level_security {
        let remedy = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, with the policies it needs");
        let judge = |guarded: Guarded| match guarded.row_level_security {
            true => CheckLine::ok(ROWS, format!("{table}: it has row-level security")),
            false => CheckLine::fail(ROWS, format!("{table}: it has no row-level security"), remedy),
        };
        lines.push(line(ROWS, &table.to_string(), guarded(session.as_ref(), table).await.map(judge)));
    }
    for table in &security.audit_triggers {
        let remedy = "make its audit trigger, or enable it; somebody may have taken it away";
        let judge = |guarded: Guarded| match guarded.audit_triggers {
            0 => CheckLine::fail(TRIGGERS, format!("{table}: no enabled audit trigger"), remedy),
            count => CheckLine::ok(TRIGGERS, format!("{table}: {count} audit triggers, enabled")),
        };
        lines.push(line(TRIGGERS, &table.to_string(), guarded(session.as_ref(), table).await.map(judge)));
    }
    lines
}

fn line(check: &'static str, subject: &str, found: Result<CheckLine, Failure>) -> CheckLine {
    found.unwrap_or_else(|failure| CheckLine::failed(check, subject, &failure))
}

async fn tls(session: Result<&Session, &Failure>) -> Result<CheckLine, Failure> {
    let session = session.map_err(again)?;
    let row = session.client().query_one(include_str!("../../../sql/check/tls.sql"), &[]).await;
    let version: Option<String> = row.map_err(|error| session.failed("ask for TLS", error))?.get(0);
    Ok(match version {
        Some(version) => CheckLine::ok(TLS, format!("the connection is by {version}")),
        None => CheckLine::fail(TLS, "the connection is not by TLS", "set sslmode = \"verify-full\" in [postgres]"),
    })
}

async fn guarded(session: Result<&Session, &Failure>, table: &TableName) -> Result<Guarded, Failure> {
    let session = session.map_err(again)?;
    let query = include_str!("../../../sql/check/guards_of_table.sql");
    let row = session.client().query_opt(query, &[&table.schema, &table.name]).await;
    let row = row.map_err(|error| session.failed("look at a table", error))?;
    let missing = || {
        let message = format!("find the table {table}");
        Failure::new(crate::model::failure::FailureKind::NothingMatches, message)
    };
    let row = row.ok_or_else(missing)?;
    Ok(Guarded { row_level_security: row.get(0), audit_triggers: row.get(1) })
}
