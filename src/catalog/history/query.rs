//! Reading the run history, newest first, beside a running agent.
//!
//! Never writes, never repairs: a last line that is still being written is passed over. The same run is met more than
//! once (begun, ended, carried into a new segment); the newest word counts.

use std::collections::HashSet;
use std::path::Path;

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::catalog::history::record::{Entry, Line};
use crate::catalog::history::segment;
use crate::catalog::history::{HistoryError, RunRecord, SkipRecord};

/// What to look for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this job.
    pub job: Option<String>,
    /// Only what was scheduled at or after this instant.
    pub since: Option<DateTime<Utc>>,
    /// Only runs that are not green, and skipped ones.
    pub only_trouble: bool,
    /// At most so many; absent for all.
    pub limit: Option<usize>,
}

/// One thing the history remembers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remembered {
    /// A run; without an end it is running, or its agent died.
    Run(RunRecord),
    /// Instants without a run.
    Skipped(SkipRecord),
}

/// What the history in `folder` remembers, newest first. A folder that is not there is an empty history.
pub fn read(folder: &Path, filter: &Filter) -> Result<Vec<Remembered>, HistoryError> {
    let limit = filter.limit.unwrap_or(usize::MAX);
    let (mut found, mut runs) = (Vec::new(), HashSet::new());
    if !folder.is_dir() {
        return Ok(found);
    }
    for name in segment::names(folder)?.into_iter().rev() {
        let bytes = segment::read_whole(&name.below(folder))?;
        let lines = bytes[..segment::whole_lines(&bytes)].rsplit(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice::<Line>(line).ok());
        for line in lines {
            let remembered = match line.entry {
                Entry::Begun(run) | Entry::Ended(run) if runs.insert(run.run) => Remembered::Run(run),
                Entry::Skipped(skip) => Remembered::Skipped(skip),
                _ => continue,
            };
            if found.len() < limit && filter.wants(&remembered) {
                found.push(remembered);
            }
        }
        if found.len() >= limit {
            break;
        }
    }
    Ok(found)
}

impl Filter {
    fn wants(&self, remembered: &Remembered) -> bool {
        let (job, scheduled, trouble) = match remembered {
            Remembered::Run(run) => (&run.job, run.scheduled, !run.is_green()),
            Remembered::Skipped(skip) => (&skip.job, skip.scheduled, true),
        };
        self.job.as_ref().is_none_or(|wanted| wanted == job)
            && self.since.is_none_or(|since| scheduled >= since)
            && (trouble || !self.only_trouble)
    }
}
