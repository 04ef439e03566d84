//! A look at all tables that the plan has partition rules for: what is there, what is to be done, what is alarming.
//!
//! Changes nothing. Maintenance begins with it, and the checklist ends with it.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::model::partition::{Parent, Plan, Rule, alarms, plan};
use crate::model::table::TableName;
use crate::postgres::partitions::{Maintenance, Origin};
use crate::postgres::{PostgresErrorKind, Session};

/// One rule of the plan.
#[derive(Clone, Debug)]
pub struct TableRule {
    /// The table as the plan names it.
    pub name: TableName,
    /// What is wanted.
    pub rule: Rule,
    /// Longest wait for a lock.
    pub lock_timeout: Duration,
}

/// What was found of one table.
#[derive(Clone, Debug)]
pub struct Surveyed {
    /// The rule.
    pub rule: TableRule,
    /// The table and its partitions; absent when it cannot be maintained, and `findings` say why.
    pub found: Option<(Origin, Parent)>,
    /// What is to be done.
    pub plan: Plan,
    /// What is alarming as it is.
    pub findings: Vec<Finding>,
}

/// Looks at the table of `rule` as of `now`. `reader` may read the rows of its default partition.
pub async fn survey(
    maintenance: &Maintenance,
    reader: &Session,
    rule: &TableRule,
    now: DateTime<Utc>,
) -> Result<Surveyed, Failure> {
    let nothing =
        |finding| Surveyed { rule: rule.clone(), found: None, plan: Plan::default(), findings: vec![finding] };
    let origin = match maintenance.origin(&rule.name).await {
        Ok(origin) => origin,
        Err(error) if error.kind == PostgresErrorKind::MissingObject => {
            let finding = Finding::new(Severity::Critical, "partition-table-missing", error.full_message());
            return Ok(nothing(finding.remedy("correct the partition rules of the plan")));
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(obstacle) = maintenance.obstacle(&origin, &rule.rule.key, reader).await? {
        return Ok(nothing(obstacle));
    }
    let parent = maintenance.parent(&origin, reader).await?;
    let (plan, findings) = (plan(&parent, &rule.rule, now), alarms(&parent, &rule.rule, now));
    Ok(Surveyed { rule: rule.clone(), found: Some((origin, parent)), plan, findings })
}

/// What is wrong with the record of the tables that were handed over: not registered, or otherwise than planned; and what
/// somebody else has taken away.
pub async fn record_findings(maintenance: &Maintenance, surveyed: &Surveyed) -> Result<Vec<Finding>, Failure> {
    let Some((origin, _)) = &surveyed.found else { return Ok(Vec::new()) };
    let (table, rule) = (&origin.table, &surveyed.rule.rule);
    let mut findings = Vec::new();
    let install = "dbagent init --install-sql, by an administrator";
    match maintenance.is_registered_as(table, rule).await? {
        Some(true) => {}
        Some(false) => {
            let message =
                format!("{table} is registered with another rule than the plan has; the registered one holds");
            findings.push(Finding::new(Severity::Warning, "partition-rule-differs", message).remedy(install));
        }
        None => {
            let message = format!("{table} is not registered: nothing may be made or dropped");
            findings.push(Finding::new(Severity::Critical, "partition-not-registered", message).remedy(install));
        }
    }
    for missing in maintenance.missing(table).await? {
        let how = if missing.detached { "was detached" } else { "is gone" };
        let unsealed = if rule.seal { ", without a seal" } else { "" };
        let message = format!("{} {how}, and not by dbagent{unsealed}", missing.table);
        let finding = Finding::new(Severity::Critical, "partition-missing", message);
        findings.push(finding.remedy("find out who did that; restore it from a dump if nobody meant to"));
    }
    Ok(findings)
}
