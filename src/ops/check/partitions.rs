//! Partitions: months ahead, rows in default, bounds, what is overdue, what somebody else took away.

use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::ops::Setting;
use crate::ops::check::{CheckLine, again};
use crate::postgres::partitions::Maintenance;
use crate::postgres::{Connection, ServerFacts};
use crate::steps::partitions::{Surveyed, TableRule, record_findings, survey};

const CHECK: &str = "partitions";

/// What the plan's partition rules are checked with.
#[derive(Debug)]
pub struct Partitions {
    /// By the role that maintains them.
    pub connection: Result<Connection, Failure>,
    /// By a role that may read all rows.
    pub reader: Result<Connection, Failure>,
    /// The rules.
    pub rules: Vec<TableRule>,
}

pub(super) async fn check(partitions: Option<&Partitions>, setting: &Setting) -> Vec<CheckLine> {
    let Some(partitions) = partitions else { return Vec::new() };
    match lines(partitions, setting).await {
        Ok(lines) => lines,
        Err(failure) => vec![CheckLine::failed(CHECK, "partition rules", &failure)],
    }
}

async fn lines(partitions: &Partitions, setting: &Setting) -> Result<Vec<CheckLine>, Failure> {
    let connection = partitions.connection.as_ref().map_err(again)?;
    let maintenance = Maintenance::connect(connection).await?;
    if ServerFacts::read(maintenance.session()).await?.in_recovery {
        return Ok(vec![CheckLine::ok(CHECK, "a standby: partitions are maintained on the primary")]);
    }
    maintenance.require_installed().await?;
    let reader = Maintenance::connect(partitions.reader.as_ref().map_err(again)?).await?;
    let mut lines = Vec::new();
    for rule in &partitions.rules {
        let surveyed = survey(&maintenance, reader.session(), rule, setting.clock.now()).await?;
        let mut findings = surveyed.findings.clone();
        findings.extend(surveyed.plan.findings.iter().cloned());
        findings.extend(record_findings(&maintenance, &surveyed).await?);
        lines.extend(findings.iter().map(line_of));
        if findings.is_empty() {
            lines.push(CheckLine::ok(CHECK, all_is_well(&surveyed, setting.clock.now())));
        }
    }
    Ok(lines)
}

fn line_of(finding: &Finding) -> CheckLine {
    let remedy = finding.remedy.clone().unwrap_or_default();
    match finding.severity {
        Severity::Critical => CheckLine::fail(CHECK, finding.message.clone(), remedy),
        Severity::Warning | Severity::Info => CheckLine::warn(CHECK, finding.message.clone(), remedy),
    }
}

fn all_is_well(surveyed: &Surveyed, now: chrono::DateTime<chrono::Utc>) -> String {
    match &surveyed.found {
        Some((_, parent)) => format!(
            "{}: {} partitions, {} months ahead, none overdue",
            parent.table,
            parent.partitions.len(),
            parent.ahead(now)
        ),
        None => format!("{}: nothing to say", surveyed.rule.name),
    }
}
