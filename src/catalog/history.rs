//! The run history: which job ran when and what came of it, in the state directory, readable while it is written.
//!
//! Must not decide what runs; it remembers. An entry is durable when its append returns. Deleting the history loses
//! no safety rule: jobs then count from now. It is a row of segments, JSON lines each; every segment opens with the
//! state it continues from, so that opening reads only the newest and old ones can be deleted. The surprising thing:
//! only [`Entry::Settled`] can take a job's last settled instant back, which is needed when a clock was far ahead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};

use crate::model::id::RunId;

mod query;
mod record;
mod segment;

pub use query::{Filter, Remembered, read};
pub use record::{Entry, Interruption, RecordedFailure, RunEnd, RunRecord, RunResult, SkipReason, SkipRecord, Trigger};

use record::{Line, VERSION};
use segment::{Segment, SegmentName};

/// A history that cannot be read or written: lower-case, fits after "failed to".
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct HistoryError {
    what: &'static str,
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// How much is kept. Whatever is exceeded first drops the oldest segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Bytes after which a new segment is begun.
    pub segment_bytes: u64,
    /// Bytes of all segments.
    pub total_bytes: u64,
    /// Age up to which entries are kept; whole segments are dropped, so some live longer.
    pub keep: TimeDelta,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, total_bytes: 256 << 20, keep: TimeDelta::days(400) }
    }
}

/// What is remembered of one job.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Every scheduled instant up to this one is settled; absent for a job never seen.
    pub handled: Option<DateTime<Utc>>,
    /// Its last run that was not manual.
    pub last: Option<RunRecord>,
}

/// What was found when the history was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of a last line that was being written when the machine stopped; cut off.
    pub torn_bytes: u64,
    /// Lines of the newest segment that could not be read; left where they are.
    pub unreadable_lines: u64,
}

/// The history, open for writing. One process writes it; any number may [`read`].
#[derive(Debug)]
pub struct History {
    folder: PathBuf,
    limits: HistoryLimits,
    opened: Opened,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    segment: Segment,
    memory: Memory,
}

/// What follows from the entries so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    jobs: BTreeMap<String, Past>,
    unfinished: BTreeMap<RunId, RunRecord>,
}

impl History {
    /// Opens the history in `folder`, which is made where there is none, and repairs a torn last line.
    pub fn open(folder: &Path, limits: HistoryLimits, now: DateTime<Utc>) -> Result<Self, HistoryError> {
        segment::make_folder(folder)?;
        let mut memory = Memory::default();
        let (segment, opened) = match segment::names(folder)?.pop() {
            None => (Segment::create(folder, SegmentName::first(now), Vec::new())?, Opened::default()),
            Some(newest) => {
                let (segment, text, torn_bytes) = Segment::reopen(folder, newest)?;
                let mut unreadable_lines = 0;
                for line in text.lines() {
                    match serde_json::from_str::<Line>(line) {
                        Ok(line) => memory.take_in(&line.entry),
                        Err(_) => unreadable_lines += 1,
                    }
                }
                (segment, Opened { torn_bytes, unreadable_lines })
            }
        };
        let state = Mutex::new(State { segment, memory });
        Ok(Self { folder: folder.to_owned(), limits, opened, state })
    }

    /// What was found when it was opened.
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// Appends `entry`, durably; then begins a new segment if it is time. An entry that could not be written leaves no
    /// trace; one after which no segment could be begun stays.
    pub fn append(&self, entry: &Entry, now: DateTime<Utc>) -> Result<(), HistoryError> {
        let mut state = self.state();
        state.segment.append(&self.line_of(entry)?)?;
        state.memory.take_in(entry);
        let begun_long_ago = state.segment.name().begun + TimeDelta::days(30) <= now.date_naive();
        if state.segment.size() >= self.limits.segment_bytes || begun_long_ago {
            self.begin_segment(&mut state, now)?;
        }
        Ok(())
    }

    /// What is remembered of `job`.
    pub fn past(&self, job: &str) -> Past {
        self.state().memory.past(job)
    }

    /// The last scheduled instant of `job` that was settled.
    pub fn last_scheduled(&self, job: &str) -> Option<DateTime<Utc>> {
        self.past(job).handled
    }

    /// Runs begun and not ended: right after opening, those an agent died in.
    pub fn unfinished(&self) -> Vec<RunRecord> {
        self.state().memory.unfinished()
    }

    /// Begins a segment that opens with all that later ones must not forget, and drops segments past the limits.
    fn begin_segment(&self, state: &mut State, now: DateTime<Utc>) -> Result<(), HistoryError> {
        let mut head = Vec::new();
        for entry in state.memory.entries() {
            head.extend(self.line_of(&entry)?);
        }
        state.segment = Segment::create(&self.folder, state.segment.name().next(now), head)?;
        segment::drop_old(&self.folder, &self.limits, now)
    }

    /// `entry` as one line of the file.
    fn line_of(&self, entry: &Entry) -> Result<Vec<u8>, HistoryError> {
        let failed = |source: serde_json::Error| HistoryError {
            what: "write a line below",
            path: self.folder.clone(),
            source: source.into(),
        };
        let mut text = serde_json::to_vec(&Line { version: VERSION, entry: entry.clone() }).map_err(failed)?;
        text.push(b'\n');
        Ok(text)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    pub(crate) fn take_in(&mut self, entry: &Entry) {
        match entry {
            Entry::Settled { job, handled } => self.of(job).handled = Some(*handled),
            Entry::Skipped(skip) => self.settle(&skip.job, skip.scheduled),
            Entry::Begun(run) => {
                self.unfinished.insert(run.run, run.clone());
                if matches!(run.trigger, Trigger::Schedule | Trigger::CatchUp) {
                    self.settle(&run.job, run.scheduled);
                }
                self.remember_last(run);
            }
            Entry::Ended(run) => {
                self.unfinished.remove(&run.run);
                self.remember_last(run);
            }
        }
    }

    pub(crate) fn past(&self, job: &str) -> Past {
        self.jobs.get(job).cloned().unwrap_or_default()
    }

    pub(crate) fn unfinished(&self) -> Vec<RunRecord> {
        self.unfinished.values().cloned().collect()
    }

    /// Entries from which the same memory follows.
    fn entries(&self) -> Vec<Entry> {
        let last = self.jobs.values().filter_map(|past| past.last.clone()).filter(|last| last.end.is_some());
        let begun = self.unfinished.values().cloned().map(Entry::Begun);
        let settled = self.jobs.iter().filter_map(|(job, past)| Some((job.clone(), past.handled?)));
        let settled = settled.map(|(job, handled)| Entry::Settled { job, handled });
        last.map(Entry::Ended).chain(begun).chain(settled).collect()
    }

    fn of(&mut self, job: &str) -> &mut Past {
        self.jobs.entry(job.to_owned()).or_default()
    }

    /// A run that had to wait may begin after a later instant was skipped.
    fn settle(&mut self, job: &str, scheduled: DateTime<Utc>) {
        let past = self.of(job);
        past.handled = past.handled.max(Some(scheduled));
    }

    fn remember_last(&mut self, run: &RunRecord) {
        if run.trigger != Trigger::Manual {
            self.of(&run.job).last = Some(run.clone());
        }
    }
}
