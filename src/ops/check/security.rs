//! The security posture that the plan asks for: TLS in force, tables with row-level security, audit triggers and columns,
//! roles no wider than declared, how long logs and backups are kept.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::model::failure::{Failure, FailureKind};
use crate::model::table::TableName;
use crate::ops::check::retention::{self, Retention};
use crate::ops::check::roles::{self, Declared};
use crate::ops::check::{CheckLine, again};
use crate::postgres::{Connection, Session};

const TLS: &str = "server-tls";
const ROWS: &str = "row-level-security";
const TRIGGERS: &str = "audit-triggers";
const COLUMNS: &str = "audit-columns";

/// What the plan asks for.
#[derive(Debug, Default)]
pub struct Security {
    /// Whether our connection must be by TLS.
    pub tls: bool,
    /// Tables that must have row-level security.
    pub row_level_security: Vec<TableName>,
    /// Tables that must have an audit trigger.
    pub audit_triggers: Vec<TableName>,
    /// Columns that must be there, by table.
    pub audit_columns: BTreeMap<TableName, Vec<String>>,
    /// Roles that may have no more than is declared.
    pub roles: Vec<Declared>,
    /// How long logs and backups must be kept.
    pub retention: Retention,
}

impl Security {
    fn asks_anything(&self) -> bool {
        let tables = !self.row_level_security.is_empty() || !self.audit_triggers.is_empty();
        let kept = self.retention.logs.is_some() || self.retention.backups.is_some();
        self.tls || tables || kept || !self.audit_columns.is_empty() || !self.roles.is_empty()
    }
}

/// What the server says of a table.
struct Facts {
    columns: Vec<String>,
    row_level_security: bool,
    audit_triggers: i64,
}

pub(super) async fn check(
    security: &Security,
    server: &Result<Connection, Failure>,
    now: DateTime<Utc>,
) -> Vec<CheckLine> {
    if !security.asks_anything() {
        return Vec::new();
    }
    let session = match server {
        Ok(connection) => connection.connect().await.map_err(Failure::from),
        Err(failure) => Err(again(failure)),
    };
    let session = session.as_ref();
    let mut lines = Vec::new();
    if security.tls {
        lines.push(line(TLS, "the connection", tls(session).await));
    }
    for table in &security.row_level_security {
        let facts = facts(session, table).await;
        lines.push(line(ROWS, &table.to_string(), facts.map(|facts| rows_line(table, &facts))));
    }
    for table in &security.audit_triggers {
        let facts = facts(session, table).await;
        lines.push(line(TRIGGERS, &table.to_string(), facts.map(|facts| triggers_line(table, &facts))));
    }
    for (table, wanted) in &security.audit_columns {
        let facts = facts(session, table).await;
        lines.push(line(COLUMNS, &table.to_string(), facts.map(|facts| columns_line(table, wanted, &facts))));
    }
    lines.extend(roles::check(&security.roles, session).await);
    lines.extend(retention::check(&security.retention, session, now).await);
    lines
}

fn rows_line(table: &TableName, facts: &Facts) -> CheckLine {
    if facts.row_level_security {
        return CheckLine::ok(ROWS, format!("{table}: it has row-level security"));
    }
    let remedy = format!("ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, with the policies it needs");
    CheckLine::fail(ROWS, format!("{table}: it has no row-level security"), remedy)
}

fn triggers_line(table: &TableName, facts: &Facts) -> CheckLine {
    let remedy = "make its audit trigger, or enable it; somebody may have taken it away";
    match facts.audit_triggers {
        0 => CheckLine::fail(TRIGGERS, format!("{table}: no enabled audit trigger"), remedy),
        count => CheckLine::ok(TRIGGERS, format!("{table}: {count} audit triggers, enabled")),
    }
}

fn columns_line(table: &TableName, wanted: &[String], facts: &Facts) -> CheckLine {
    let missing: Vec<&str> =
        wanted.iter().filter(|column| !facts.columns.contains(column)).map(String::as_str).collect();
    if missing.is_empty() {
        return CheckLine::ok(COLUMNS, format!("{table}: it has {}", wanted.join(", ")));
    }
    let remedy = "find out who took the columns away; without them changes are not traced";
    CheckLine::fail(COLUMNS, format!("{table}: it has no column {}", missing.join(", ")), remedy)
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

async fn facts(session: Result<&Session, &Failure>, table: &TableName) -> Result<Facts, Failure> {
    let session = session.map_err(again)?;
    let query = include_str!("../../../sql/check/table.sql");
    let row = session.client().query_opt(query, &[&table.schema, &table.name]).await;
    let row = row.map_err(|error| session.failed("look at a table", error))?;
    let row = row.ok_or_else(|| Failure::new(FailureKind::NothingMatches, format!("find the table {table}")))?;
    Ok(Facts { columns: row.get(0), row_level_security: row.get(1), audit_triggers: row.get(2) })
}
