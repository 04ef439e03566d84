//! One part being read: its files one after another as a tar archive, their pages verified on the way.
//!
//! Files change while they are read; that is what the log is for. One that has vanished is left out, one that has become
//! shorter is filled up with zeros to the length its header says, one that has grown is read no further.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::host::{Assembly, OpenFile, SourceError};
use crate::model::base::{DamagedPage, DamagedPages, FileLine};
use crate::model::lsn::Lsn;
use crate::pipeline::ustar;
use crate::postgres::file_tree::Entry;
use crate::postgres::page::{PAGE_BYTES, Page, judge};

/// Bytes of a file read in one go: whole pages.
const WINDOW_BYTES: usize = 256 << 10;

/// How often a page that fails is read again before it is judged.
const READINGS: u32 = 5;

/// Pages of one part that are remembered until the backup's end is known, at most.
const MOST_UNSETTLED: usize = 1000;

/// How pages are verified.
#[derive(Clone, Copy, Debug)]
pub(super) struct PageCheck {
    /// Where the backup begins: a page changed after it is in the log.
    pub start: Lsn,
    /// Pages to a segment of a relation.
    pub segment_pages: u32,
}

/// What reading a part came to.
#[derive(Clone, Debug, Default)]
pub(super) struct PartReport {
    /// A line for each file and directory.
    pub lines: Vec<FileLine>,
    /// Pages that are damaged whatever the backup's end is.
    pub damaged: DamagedPages,
    /// Pages that fail and say that they were changed after the start: damaged if that is after the end, too.
    pub unsettled: Vec<(DamagedPage, Lsn)>,
}

/// Reads the entries of one part.
pub(super) struct PartReading {
    pub(super) root: PathBuf,
    pub(super) number: u32,
    pub(super) check: Option<PageCheck>,
    pub(super) entries: std::vec::IntoIter<Entry>,
    pub(super) report: Arc<Mutex<PartReport>>,
    state: State,
    window: Vec<u8>,
    given: usize,
    filled: usize,
}

enum State {
    Between,
    Within(Box<Current>),
    Ended,
}

struct Current {
    entry: Entry,
    file: OpenFile,
    read: u64,
    hasher: Xxh3,
}

impl PartReading {
    pub(super) fn new(root: PathBuf, number: u32, entries: Vec<Entry>, check: Option<PageCheck>) -> Self {
        Self {
            root,
            number,
            check,
            entries: entries.into_iter(),
            report: Arc::default(),
            state: State::Between,
            window: vec![0; WINDOW_BYTES],
            given: 0,
            filled: 0,
        }
    }

    /// Where its report will be.
    pub(super) fn report(&self) -> Arc<Mutex<PartReport>> {
        self.report.clone()
    }

    /// Fills the window with what comes next; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => Ok(false),
            State::Within(current) => self.read_on(current).map(|()| true),
            State::Between => match self.entries.next() {
                Some(entry) => self.begin(entry).map(|()| true),
                None => {
                    self.put(&ustar::end());
                    Ok(true)
                }
            },
        }
    }

    fn begin(&mut self, entry: Entry) -> io::Result<()> {
        self.state = State::Between;
        (self.given, self.filled) = (0, 0);
        if entry.size.is_none() {
            self.put(&member(&entry, None).header());
            self.line(&entry, None);
            return Ok(());
        }
        // Only at the top may a file be a link: the operator put it on another disk.
        let follow = !entry.path.contains('/');
        let file = match OpenFile::open(&self.root.join(&entry.path), follow) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            opened => opened.map_err(|error| named(&entry.path, error))?,
        };
        self.put(&member(&entry, Some(file.size())).header());
        self.state = State::Within(Box::new(Current { entry, file, read: 0, hasher: Xxh3::new() }));
        Ok(())
    }

    fn read_on(&mut self, mut current: Box<Current>) -> io::Result<()> {
        let left = current.file.size() - current.read;
        if left == 0 {
            self.put(&vec![0; ustar::padding(current.file.size())]);
            self.line(&current.entry, Some((current.file.size(), current.hasher.digest128())));
            self.state = State::Between;
            return Ok(());
        }
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(WINDOW_BYTES);
        let filled =
            current.file.fill(&mut self.window[..wanted]).map_err(|error| named(&current.entry.path, error))?;
        self.window[filled..wanted].fill(0);
        self.verify(&current, filled)?;
        current.hasher.update(&self.window[..wanted]);
        current.read += wanted as u64;
        (self.given, self.filled) = (0, wanted);
        self.state = State::Within(current);
        Ok(())
    }

    /// Verifies the whole pages in the window.
    fn verify(&mut self, current: &Current, filled: usize) -> io::Result<()> {
        let (Some(check), Some(relation)) = (self.check, current.entry.relation) else { return Ok(()) };
        let first = relation.segment.wrapping_mul(check.segment_pages);
        for at in (0..filled / PAGE_BYTES).map(|page| page * PAGE_BYTES) {
            let offset = current.read + at as u64;
            let page = u32::try_from(offset / PAGE_BYTES as u64).unwrap_or(u32::MAX);
            let block = first.wrapping_add(page);
            if judge(&self.window[at..at + PAGE_BYTES], block) == Page::Whole {
                continue;
            }
            match reread(&current.file, &mut self.window[at..at + PAGE_BYTES], offset, block)? {
                Page::Whole => {}
                Page::Broken(changed) => {
                    self.note(DamagedPage { path: current.entry.path.clone(), block }, changed, check)
                }
            }
        }
        Ok(())
    }

    fn note(&self, page: DamagedPage, changed: Lsn, check: PageCheck) {
        let mut report = self.report.lock().unwrap_or_else(PoisonError::into_inner);
        match changed >= check.start && report.unsettled.len() < MOST_UNSETTLED {
            true => report.unsettled.push((page, changed)),
            false => report.damaged.add(page),
        }
    }

    fn line(&self, entry: &Entry, content: Option<(u64, u128)>) {
        let line = FileLine {
            path: entry.path.clone(),
            part: self.number,
            size: content.map(|(size, _)| size),
            digest: content.map(|(_, digest)| format!("{digest:032x}")),
            modified: entry.modified,
            mode: entry.mode,
        };
        self.report.lock().unwrap_or_else(PoisonError::into_inner).lines.push(line);
    }

    fn put(&mut self, bytes: &[u8]) {
        self.window[..bytes.len()].copy_from_slice(bytes);
        (self.given, self.filled) = (0, bytes.len());
    }
}

/// Reads a page again until it is whole, into its place.
fn reread(file: &OpenFile, page: &mut [u8], offset: u64, block: u32) -> io::Result<Page> {
    let mut judged = judge(page, block);
    for _ in 0..READINGS {
        if judged == Page::Whole {
            return Ok(judged);
        }
        match file.read_at(page, offset) {
            // It was cut off meanwhile: the log knows.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                page.fill(0);
                return Ok(Page::Whole);
            }
            read => read?,
        }
        judged = judge(page, block);
    }
    Ok(judged)
}

/// The member for `entry`, in whose archive it has `size` bytes.
pub(super) fn member(entry: &Entry, size: Option<u64>) -> ustar::Member {
    ustar::Member { path: entry.path.clone(), size, mode: entry.mode, modified: entry.modified }
}

fn named(path: &str, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{path}: {error}"))
}

impl Read for PartReading {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.given == self.filled {
            if buffer.is_empty() || !self.advance()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.filled - self.given);
        buffer[..count].copy_from_slice(&self.window[self.given..self.given + count]);
        self.given += count;
        Ok(count)
    }
}

impl Assembly for PartReading {
    fn require_whole(&self) -> Result<(), SourceError> {
        match (&self.state, self.entries.len()) {
            (State::Ended, 0) => Ok(()),
            (_, left) => Err(SourceError::new(format!("{left} files of a part were not read"))),
        }
    }
}
