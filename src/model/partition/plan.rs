//! What is to be made and what may go, with reasons: from facts, a rule and `now`.
//!
//! Making and retiring are independent: a partition that cannot be dropped never holds up one that is to be made. The
//! surprising thing: a gap is filled only where rows may still be wanted, so a month whose retention is over, and which
//! may just have been dropped, is never made again.

use std::fmt;

use chrono::{DateTime, NaiveDate, Utc};
use serde::Serialize;

use crate::model::outcome::{Finding, Severity};
use crate::model::partition::month::midnight;
use crate::model::partition::{Bound, Month, Parent, Partition, Rule};
use crate::model::span::Span;
use crate::model::table::QualifiedTable;

/// Rows that are moved out of the default partition in one transaction, while nobody can use the table; a month with more is
/// made of several parts.
pub const MOVED_AT_ONCE: u64 = 50_000;

/// Longest name PostgreSQL keeps, in bytes (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;

/// Most partitions made in one run; a parent that lacks more is not what the plan means.
const MADE_AT_ONCE: usize = 240;

/// Partitions ahead below which it is an alarm.
const FEWEST_AHEAD: usize = 2;

/// Why a partition is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum MakeReason {
    /// It is the present month.
    Now,
    /// It is one of the months ahead.
    Ahead,
    /// It lies between months that are there.
    Gap,
}

impl fmt::Display for MakeReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Now => "the present month",
            Self::Ahead => "ahead",
            Self::Gap => "a gap",
        })
    }
}

/// One partition to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Make {
    /// Its name.
    pub table: QualifiedTable,
    /// Its first day.
    pub from: NaiveDate,
    /// The first day after it; in the same month, or the first of the next.
    pub to: NaiveDate,
    /// Why.
    pub reason: MakeReason,
    /// Rows that move into it from the default partition.
    pub moves: u64,
}

/// One partition whose time is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retire {
    /// The partition.
    pub partition: Partition,
    /// Its upper bound.
    pub upper: DateTime<Utc>,
    /// The rule it follows from.
    pub retention: Span,
}

impl fmt::Display for Retire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended {}, kept {}", self.upper.format("%Y-%m-%d"), self.retention)
    }
}

/// What is to be done for one parent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Detachments that were cut off and are to be finished.
    pub finish: Vec<Partition>,
    /// Partitions to be made, oldest first.
    pub make: Vec<Make>,
    /// Partitions to be archived and dropped, oldest first.
    pub retire: Vec<Retire>,
    /// What cannot be done, or was not asked for.
    pub findings: Vec<Finding>,
}

/// What `rule` wants of `parent` at `now`.
pub fn plan(parent: &Parent, rule: &Rule, now: DateTime<Utc>) -> Plan {
    let mut plan = Plan {
        finish: parent.partitions.iter().filter(|partition| partition.detach_pending).cloned().collect(),
        ..Plan::default()
    };
    plan_making(parent, rule, now, &mut plan);
    plan_retiring(parent, rule, now, &mut plan);
    plan
}

fn plan_making(parent: &Parent, rule: &Rule, now: DateTime<Utc>, plan: &mut Plan) {
    let present = Month::of(now);
    let mut month = first_wanted(parent, rule, now);
    let last = present.plus(rule.premake);
    let cut_off = rule.retention.map(|retention| retention.before(now));
    // A part of a month may be over, and dropped, before the month is.
    let is_wanted = |piece: &(NaiveDate, NaiveDate)| cut_off.is_none_or(|cut_off| midnight(piece.1) > cut_off);
    while month <= last {
        let reason = match month.cmp(&present) {
            std::cmp::Ordering::Less => MakeReason::Gap,
            std::cmp::Ordering::Equal => MakeReason::Now,
            std::cmp::Ordering::Greater => MakeReason::Ahead,
        };
        match uncovered(parent, month) {
            Ok(pieces) => {
                let wanted = pieces.into_iter().filter(is_wanted);
                plan.make.extend(wanted.flat_map(|piece| parts(parent, piece, reason)));
            }
            Err(finding) => plan.findings.push(finding),
        }
        month = month.plus(1);
    }
    let too_long = plan.make.iter().any(|make| make.table.name.len() > LONGEST_NAME);
    if too_long || plan.make.len() > MADE_AT_ONCE {
        let why =
            if too_long { "their names would be longer than 63 bytes" } else { "something is wrong with its bounds" };
        let message = format!("{}: {} partitions are missing and none is made: {why}", parent.table, plan.make.len());
        plan.make.clear();
        plan.findings.push(Finding::new(Severity::Critical, "partitions-not-made", message));
    }
}

/// The first month that must be there: the earliest that is, unless its retention is over.
fn first_wanted(parent: &Parent, rule: &Rule, now: DateTime<Utc>) -> Month {
    let present = Month::of(now);
    let bounds = parent.partitions.iter().filter(|partition| !partition.detach_pending);
    let lowest = bounds.filter_map(|partition| match partition.bound {
        Bound::Range { from: Some(from), .. } => Some(Month::of(from)),
        Bound::Range { from: None, to: Some(to) } => Some(Month::of(to)),
        _ => None,
    });
    let lowest = lowest.min().unwrap_or(present).min(present);
    // A month ends inside the retention exactly when its upper bound lies after the cut-off.
    let kept = rule.retention.map(|retention| Month::of(retention.before(now)));
    kept.map_or(lowest, |kept| lowest.max(kept)).min(present)
}

/// The stretches of `month` that no partition takes. Errors when they do not begin and end with a day.
fn uncovered(parent: &Parent, month: Month) -> Result<Vec<(NaiveDate, NaiveDate)>, Finding> {
    let mut taken: Vec<_> = parent.partitions.iter().filter_map(|partition| partition.bound.interval()).collect();
    taken.sort_unstable();
    let (mut at, mut free) = (month.lower(), Vec::new());
    for (from, to) in taken {
        if from > at && at < month.upper() {
            free.push((at, from.min(month.upper())));
        }
        at = at.max(to);
    }
    if at < month.upper() {
        free.push((at, month.upper()));
    }
    let day = |instant: DateTime<Utc>| Some(instant.date_naive()).filter(|day| midnight(*day) == instant);
    let days: Option<Vec<_>> = free.iter().map(|(from, to)| Some((day(*from)?, day(*to)?))).collect();
    days.ok_or_else(|| {
        let message = format!(
            "{}: {month} is taken in part, by bounds that are not at midnight UTC, and the rest cannot be made",
            parent.table
        );
        Finding::new(Severity::Critical, "partition-bounds", message).remedy(
            "make the missing partition by hand, or convert the table anew; a session's time zone has moved the bounds",
        )
    })
}

/// One stretch as partitions: one, or several where too many rows of the default partition would move at once.
fn parts(parent: &Parent, (from, to): (NaiveDate, NaiveDate), reason: MakeReason) -> Vec<Make> {
    let mut days: Vec<(NaiveDate, u64)> =
        parent.strays.iter().filter(|(day, _)| *day >= from && *day < to).copied().collect();
    days.sort_unstable();
    let (mut made, mut start, mut moves) = (Vec::new(), from, 0);
    for (day, rows) in days {
        if moves > 0 && moves + rows > MOVED_AT_ONCE {
            made.push((start, day, moves));
            (start, moves) = (day, 0);
        }
        moves += rows;
    }
    made.push((start, to, moves));
    let whole =
        |from: NaiveDate, to: NaiveDate| Month::of_day(from).first_day() == from && Month::of_day(from).end_day() == to;
    let name = |from: NaiveDate, to: NaiveDate| {
        let format = if whole(from, to) { "%Y_%m" } else { "%Y_%m_%d" };
        QualifiedTable::new(&parent.table.schema, format!("{}_{}", parent.table.name, from.format(format)))
    };
    let make = |(from, to, moves)| Make { table: name(from, to), from, to, reason, moves };
    made.into_iter().map(make).collect()
}

fn plan_retiring(parent: &Parent, rule: &Rule, now: DateTime<Utc>, plan: &mut Plan) {
    let Some(retention) = rule.retention else { return };
    let cut_off = retention.before(now);
    let over = |partition: &&Partition| upper(partition).is_some_and(|upper| upper <= cut_off);
    let writable = parent
        .partitions
        .iter()
        .any(|partition| !partition.detach_pending && partition.bound.interval().is_some_and(|(_, to)| to > now));
    let newest = parent.partitions.iter().filter_map(upper).max();
    for partition in parent.partitions.iter().filter(over) {
        let Some(upper) = upper(partition) else { continue };
        if !writable && Some(upper) == newest {
            let message =
                format!("{} is past its retention and stays: it is the last partition of its table", partition.table);
            plan.findings.push(
                Finding::new(Severity::Warning, "last-partition-stays", message)
                    .remedy("see why no partition of the present month could be made"),
            );
            continue;
        }
        plan.retire.push(Retire { partition: partition.clone(), upper, retention });
    }
    plan.retire.sort_by_key(|retire| retire.upper);
}

/// Where a range ends, if it ends.
fn upper(partition: &Partition) -> Option<DateTime<Utc>> {
    match partition.bound {
        Bound::Range { to, .. } => to,
        _ => None,
    }
}

/// What is alarming about `parent` as it is at `now`, whatever is about to be done.
pub fn alarms(parent: &Parent, rule: &Rule, now: DateTime<Utc>) -> Vec<Finding> {
    let mut alarms = Vec::new();
    let mut alarm = |severity, code: &str, message: String, remedy: &str| {
        alarms.push(Finding::new(severity, code, message).remedy(remedy));
    };
    let table = &parent.table;
    let ahead = parent.ahead(now);
    if ahead < FEWEST_AHEAD {
        let message = format!("{table} has {ahead} months ahead of this one, fewer than {FEWEST_AHEAD}");
        alarm(Severity::Critical, "few-partitions-ahead", message, "dbagent partition maintain");
    }
    let strays = parent.rows_in_default();
    if strays > 0 {
        let message = format!("{table} has {strays} rows in its default partition{}", stray_months(parent));
        alarm(
            Severity::Warning,
            "rows-in-default",
            message,
            "dbagent partition maintain moves those of months it makes",
        );
    }
    for partition in parent.partitions.iter().filter(|partition| is_adrift(&partition.bound)) {
        let message = format!("{} has bounds that are not at midnight UTC", partition.table);
        alarm(Severity::Warning, "partition-bounds", message, "somebody made it under another time zone: make it anew");
    }
    for partition in parent.partitions.iter().filter(|partition| partition.detach_pending) {
        let message = format!("the detachment of {} was cut off", partition.table);
        alarm(Severity::Warning, "detach-pending", message, "dbagent partition maintain finishes it");
    }
    let late = rule.retention.map(|retention| Span::months(1).before(retention.before(now)));
    let is_late = |partition: &&Partition| upper(partition).zip(late).is_some_and(|(upper, late)| upper <= late);
    let overdue: Vec<_> =
        parent.partitions.iter().filter(is_late).map(|partition| partition.table.to_string()).collect();
    if !overdue.is_empty() {
        let message = format!("more than a month past their retention: {}", overdue.join(", "));
        alarm(Severity::Warning, "retention-overdue", message, "`dbagent partition plan` says what holds them");
    }
    alarms
}

impl Parent {
    /// Months after the present one that are taken whole, without a gap.
    pub fn ahead(&self, now: DateTime<Utc>) -> usize {
        let next = Month::of(now).plus(1);
        let whole = |month: &Month| uncovered(self, *month).is_ok_and(|free| free.is_empty());
        (0..120).map(|count| next.plus(count)).take_while(whole).count()
    }
}

fn is_adrift(bound: &Bound) -> bool {
    let at_midnight = |edge: &Option<DateTime<Utc>>| edge.is_none_or(|edge| midnight(edge.date_naive()) == edge);
    match bound {
        Bound::Default => false,
        Bound::Range { from, to } => !at_midnight(from) || !at_midnight(to),
        Bound::Other(_) => true,
    }
}

/// ` (2026-03: 12, …)`, at most a few months.
fn stray_months(parent: &Parent) -> String {
    let mut months: std::collections::BTreeMap<Month, u64> = std::collections::BTreeMap::new();
    for (day, rows) in &parent.strays {
        *months.entry(Month::of_day(*day)).or_default() += rows;
    }
    let shown: Vec<String> = months.iter().take(6).map(|(month, rows)| format!("{month}: {rows}")).collect();
    let more = if months.len() > 6 { ", …" } else { "" };
    if shown.is_empty() { String::new() } else { format!(" ({}{more})", shown.join(", ")) }
}
