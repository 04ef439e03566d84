//! Which backups hold a whole database, when nobody named one.
//!
//! A plan may dump one table by itself (the weekly archive of the audit log). The newest backup may be of that kind, and a
//! database restored from it would be all but empty. So a job that covers less than another one does is passed over. When
//! the wider one has not run for long, nobody but a person can say which is meant.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::Artifact;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;

/// The longest that the newest backup of everything may be behind the newest of a part, in days.
const BEHIND_DAYS: i64 = 8;

/// What the newest backup of a job is of.
struct Newest<'a> {
    as_of: DateTime<Utc>,
    tables: BTreeSet<&'a QualifiedTable>,
}

/// The artifacts of the jobs that cover most. Errors when no job covers all that the others do, or when the one that does
/// has fallen behind.
pub(super) fn whole(artifacts: Vec<Artifact>) -> Result<Vec<Artifact>, Failure> {
    let mut jobs: BTreeMap<&str, Newest<'_>> = BTreeMap::new();
    for artifact in &artifacts {
        let (as_of, job) = (artifact.manifest.as_of(), artifact.manifest.job.as_str());
        if jobs.get(job).is_none_or(|newest| newest.as_of <= as_of) {
            jobs.insert(job, Newest { as_of, tables: roots(artifact) });
        }
    }
    let all: BTreeSet<&QualifiedTable> = jobs.values().flat_map(|newest| newest.tables.iter().copied()).collect();
    let wide: BTreeSet<String> =
        jobs.iter().filter(|(_, newest)| newest.tables == all).map(|(job, _)| (*job).to_owned()).collect();
    let newest = jobs.values().map(|newest| newest.as_of).max();
    let newest_wide = jobs.iter().filter(|(job, _)| wide.contains(**job)).map(|(_, newest)| newest.as_of).max();
    match (newest, newest_wide) {
        (Some(newest), Some(wide)) if newest - wide > TimeDelta::days(BEHIND_DAYS) => {
            return Err(unclear(&jobs, "the last backup of all tables is much older than others"));
        }
        (Some(_), None) => return Err(unclear(&jobs, "no job covers the tables of all others")),
        _ => {}
    }
    Ok(artifacts.into_iter().filter(|artifact| wide.contains(&artifact.manifest.job)).collect())
}

/// The tables themselves; partitions come and go.
fn roots(artifact: &Artifact) -> BTreeSet<&QualifiedTable> {
    artifact.manifest.tables.iter().filter(|record| record.partition_of.is_none()).map(|record| &record.table).collect()
}

fn unclear(jobs: &BTreeMap<&str, Newest<'_>>, why: &str) -> Failure {
    let list: Vec<String> = jobs
        .iter()
        .map(|(job, newest)| {
            format!("{job}: {} tables, last at {}", newest.tables.len(), newest.as_of.format("%FT%TZ"))
        })
        .collect();
    Failure::new(
        FailureKind::RefusedForSafety,
        format!("choose a backup of the whole database: {why} ({})", list.join("; ")),
    )
    .hint("Name one with --backup; `dbagent backup list` shows them, `backup show` their tables.")
}
