//! The files of the run history: `history-000007-20261121.jsonl`, numbered, dated by the day they were begun.
//!
//! Owns every effect of the history and nothing of its meaning. A segment appears whole, with its first lines; after
//! that it only grows, one synced line at a time. A failed append is cut off again, or the next line would be glued
//! to its remains.

use std::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, NaiveDate, Utc};

use crate::catalog::history::{HistoryError, HistoryLimits};
use crate::host::durable;

/// The name of a segment. Ordered by number, which clocks cannot disturb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SegmentName {
    number: u32,
    /// The day it was begun, UTC.
    pub(super) begun: NaiveDate,
}

impl SegmentName {
    pub(super) fn first(now: DateTime<Utc>) -> Self {
        Self { number: 1, begun: now.date_naive() }
    }

    pub(super) fn next(self, now: DateTime<Utc>) -> Self {
        Self { number: self.number + 1, begun: now.date_naive() }
    }

    fn parse(text: &str) -> Option<Self> {
        let (number, day) = text.strip_prefix("history-")?.strip_suffix(".jsonl")?.split_once('-')?;
        Some(Self { number: number.parse().ok()?, begun: NaiveDate::parse_from_str(day, "%Y%m%d").ok()? })
    }

    pub(super) fn below(self, folder: &Path) -> PathBuf {
        folder.join(format!("history-{:06}-{}.jsonl", self.number, self.begun.format("%Y%m%d")))
    }
}

/// The newest segment, open for appending.
#[derive(Debug)]
pub(super) struct Segment {
    name: SegmentName,
    path: PathBuf,
    file: File,
    size: u64,
}

impl Segment {
    /// Makes the segment `name` with its first lines `head`.
    pub(super) fn create(folder: &Path, name: SegmentName, head: Vec<u8>) -> Result<Self, HistoryError> {
        let path = name.below(folder);
        durable::replace(&path, &head).map_err(failed("make", &path))?;
        let file = open_to_append(&path).map_err(failed("open", &path))?;
        Ok(Self { name, path, file, size: head.len() as u64 })
    }

    /// Opens the segment `name` again: itself, its whole lines, and how many bytes of a torn one were cut off.
    pub(super) fn reopen(folder: &Path, name: SegmentName) -> Result<(Self, String, u64), HistoryError> {
        let path = name.below(folder);
        let bytes = read_whole(&path)?;
        let whole = whole_lines(&bytes);
        let file = open_to_append(&path).map_err(failed("open", &path))?;
        if whole < bytes.len() {
            file.set_len(whole as u64).and_then(|()| file.sync_all()).map_err(failed("repair", &path))?;
        }
        let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
        Ok((Self { name, path, file, size: whole as u64 }, text, (bytes.len() - whole) as u64))
    }

    pub(super) fn name(&self) -> SegmentName {
        self.name
    }

    /// Bytes in it.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Appends `line`, which ends in a line end, durably or not at all.
    pub(super) fn append(&mut self, line: &[u8]) -> Result<(), HistoryError> {
        if let Err(error) = self.file.write_all(line).and_then(|()| self.file.sync_data()) {
            self.file.set_len(self.size).map_err(failed("repair", &self.path))?;
            return Err(failed("append to", &self.path)(error));
        }
        self.size += line.len() as u64;
        Ok(())
    }
}

/// Makes the folder, readable by its owner only.
pub(super) fn make_folder(folder: &Path) -> Result<(), HistoryError> {
    durable::private_directory(folder).map_err(failed("make", folder))
}

/// The segments in `folder`, oldest first. Other files are left alone.
pub(super) fn names(folder: &Path) -> Result<Vec<SegmentName>, HistoryError> {
    let list = || -> io::Result<Vec<SegmentName>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(folder)? {
            names.extend(entry?.file_name().to_str().and_then(SegmentName::parse));
        }
        Ok(names)
    };
    let mut names = list().map_err(failed("list", folder))?;
    names.sort();
    Ok(names)
}

/// The whole file; nothing of one that was dropped since the folder was listed.
#[expect(clippy::disallowed_methods, reason = "the history opens its own files")]
pub(super) fn read_whole(path: &Path) -> Result<Vec<u8>, HistoryError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(failed("read", path)),
    }
}

/// Deletes the oldest segments past `limits`, never the newest. A segment is as old as the beginning of the next.
pub(super) fn drop_old(folder: &Path, limits: &HistoryLimits, now: DateTime<Utc>) -> Result<(), HistoryError> {
    let names = names(folder)?;
    let oldest_kept = (now - limits.keep).date_naive();
    let mut bytes = 0;
    for (index, name) in names.iter().enumerate().rev() {
        let path = name.below(folder);
        bytes += fs::metadata(&path).map_err(failed("look at", &path))?.len();
        let next = names.get(index + 1);
        if next.is_some_and(|next| bytes > limits.total_bytes || next.begun < oldest_kept) {
            durable::remove(&path).map_err(failed("delete", &path))?;
        }
    }
    Ok(())
}

fn open_to_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).open(path)
}

/// How many bytes of `bytes` are whole lines.
pub(super) fn whole_lines(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1)
}

fn failed<E: Error + Send + Sync + 'static>(what: &'static str, path: &Path) -> impl FnOnce(E) -> HistoryError {
    let path = path.to_owned();
    move |source| HistoryError { what, path, source: source.into() }
}
