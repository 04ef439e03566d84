//! One part being read: its files one after another as a tar archive, their pages verified on the way.
//!
//! Files change while they are read; that is what the log is for. One that has vanished is left out, one that has become
//! shorter is filled up with zeros to the length its header says, one that has grown is read no further. Of a file in
//! an incremental backup only the pages that are asked for are read.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use crate::host::{Assembly, OpenFile, SourceError};
use crate::model::base::{DamagedPage, DamagedPages, FileLine};
use crate::model::lsn::Lsn;
use crate::model::pages::{self, PageHead};
use crate::ops::base_backup::plan::Item;
use crate::ops::base_backup::window::{WINDOW_BYTES, Window};
use crate::pipeline::ustar;
use crate::postgres::file_tree::Entry;
use crate::postgres::page::{PAGE_BYTES, Page, judge};
use crate::postgres::relation_file::RelationFile;

/// How often a page that fails is read again before it is judged.
pub(super) const READINGS: u32 = 5;

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

impl PageCheck {
    /// The number of the page that is at `offset` bytes of a file of the relation.
    pub(super) fn block(&self, relation: RelationFile, offset: u64) -> u32 {
        let page = u32::try_from(offset / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        relation.segment.wrapping_mul(self.segment_pages).wrapping_add(page)
    }
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

impl PartReport {
    /// Takes a page that fails and says that it was last changed at `changed`.
    pub(super) fn note(&mut self, page: DamagedPage, changed: Lsn, check: PageCheck) {
        match changed >= check.start && self.unsettled.len() < MOST_UNSETTLED {
            true => self.unsettled.push((page, changed)),
            false => self.damaged.add(page),
        }
    }

    /// Takes a file or directory of part `number`: size and digest of what is stored, and how many pages of it that is.
    pub(super) fn line(
        &mut self,
        number: u32,
        entry: &Entry,
        content: Option<(u64, Option<u128>)>,
        pages: Option<u32>,
    ) {
        self.lines.push(FileLine {
            path: entry.path.clone(),
            part: number,
            size: content.map(|(size, _)| size),
            digest: content.and_then(|(_, digest)| digest).map(|digest| format!("{digest:032x}")),
            pages,
            modified: entry.modified,
            mode: entry.mode,
        });
    }
}

/// Reads the entries of one part.
pub(super) struct PartReading {
    pub(super) root: PathBuf,
    pub(super) number: u32,
    pub(super) check: Option<PageCheck>,
    pub(super) items: std::vec::IntoIter<Item>,
    pub(super) report: Arc<Mutex<PartReport>>,
    state: State,
    window: Window,
}

enum State {
    Between,
    Within(Box<Current>),
    Picking(Box<Picked>),
    Ended,
}

/// A file of which some pages are copied.
struct Picked {
    entry: Entry,
    file: OpenFile,
    size: u64,
    pages: Vec<u32>,
    done: usize,
}

/// What was read.
enum Advance {
    /// So many bytes, into the reader's own buffer.
    Given(usize),
    /// Something, into the window.
    Held,
    /// Nothing: that was all.
    Ended,
}

struct Current {
    entry: Entry,
    file: OpenFile,
    read: u64,
    hasher: Xxh3,
}

impl PartReading {
    pub(super) fn new(root: PathBuf, number: u32, items: Vec<Item>, check: Option<PageCheck>) -> Self {
        Self {
            root,
            number,
            check,
            items: items.into_iter(),
            report: Arc::default(),
            state: State::Between,
            window: Window::new(),
        }
    }

    /// Where its report will be.
    pub(super) fn report(&self) -> Arc<Mutex<PartReport>> {
        self.report.clone()
    }

    /// Reads what comes next: into `buffer` where it has room for whole pages of a file, into the window otherwise.
    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<Advance> {
        match std::mem::replace(&mut self.state, State::Ended) {
            State::Ended => return Ok(Advance::Ended),
            State::Within(current) => return self.read_on(current, buffer),
            State::Picking(picked) => self.pick_on(picked)?,
            State::Between => match self.items.next() {
                Some(Item { entry, pages: None }) => self.begin(entry)?,
                Some(Item { entry, pages: Some(pages) }) => self.begin_picking(entry, pages)?,
                None => self.window.put(&ustar::end()),
            },
        }
        Ok(Advance::Held)
    }

    fn begin(&mut self, entry: Entry) -> io::Result<()> {
        self.state = State::Between;
        self.window.hold(0);
        if entry.size.is_none() {
            self.window.put(&member(&entry, None).header());
            self.line(&entry, None, None);
            return Ok(());
        }
        let Some(file) = self.open(&entry)? else { return Ok(()) };
        self.window.put(&member(&entry, Some(file.size())).header());
        self.state = State::Within(Box::new(Current { entry, file, read: 0, hasher: Xxh3::new() }));
        Ok(())
    }

    /// The file of `entry`; nothing where it has vanished.
    fn open(&self, entry: &Entry) -> io::Result<Option<OpenFile>> {
        // Only at the top may a file be a link: the operator put it on another disk.
        let follow = !entry.path.contains('/');
        match OpenFile::open(&self.root.join(&entry.path), follow) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some).map_err(|error| named(&entry.path, error)),
        }
    }

    /// What the file has grown by since it was seen is in the log, and not copied.
    fn begin_picking(&mut self, entry: Entry, mut pages: Vec<u32>) -> io::Result<()> {
        self.state = State::Between;
        self.window.hold(0);
        let Some(file) = self.open(&entry)? else { return Ok(()) };
        let size = file.size().min(entry.size.unwrap_or_default()) / PAGE_BYTES as u64 * PAGE_BYTES as u64;
        pages.retain(|page| (u64::from(*page) + 1) * PAGE_BYTES as u64 <= size);
        let bytes = PageHead::member_bytes(PAGE_BYTES as u32, pages.len());
        let path = format!("{}/{}", pages::FOLDER, entry.path);
        let mut head = ustar::Member { path, ..member(&entry, Some(bytes)) }.header();
        head.extend(PageHead::bytes(PAGE_BYTES as u32, size, &pages));
        self.window.put(&head);
        self.state = State::Picking(Box::new(Picked { entry, file, size, pages, done: 0 }));
        Ok(())
    }

    /// The next pages that lie side by side.
    fn pick_on(&mut self, mut picked: Box<Picked>) -> io::Result<()> {
        let Some(first) = picked.pages.get(picked.done).copied() else {
            let bytes = PageHead::member_bytes(PAGE_BYTES as u32, picked.pages.len());
            self.window.put(&vec![0; ustar::padding(bytes)]);
            let count = u32::try_from(picked.pages.len()).unwrap_or(u32::MAX);
            self.line(&picked.entry, Some((picked.size, None)), Some(count));
            self.state = State::Between;
            return Ok(());
        };
        let follows = |(at, page): (u32, &u32)| first.checked_add(at) == Some(*page);
        let most = WINDOW_BYTES / PAGE_BYTES;
        let count = (0..).zip(&picked.pages[picked.done..]).take(most).take_while(|pair| follows(*pair)).count();
        let (offset, bytes) = (u64::from(first) * PAGE_BYTES as u64, count * PAGE_BYTES);
        let room = self.window.room(bytes);
        let filled = picked.file.fill_at(room, offset).map_err(|error| named(&picked.entry.path, error))?;
        room[filled..].fill(0);
        verify(&self.report, self.check, (&picked.file, &picked.entry), offset, &mut room[..filled])?;
        self.window.hold(bytes);
        picked.done += count;
        self.state = State::Picking(picked);
        Ok(())
    }

    fn read_on(&mut self, mut current: Box<Current>, buffer: &mut [u8]) -> io::Result<Advance> {
        let left = current.file.size() - current.read;
        if left == 0 {
            self.window.put(&vec![0; ustar::padding(current.file.size())]);
            self.line(&current.entry, Some((current.file.size(), Some(current.hasher.digest128()))), None);
            self.state = State::Between;
            return Ok(Advance::Held);
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let (room, is_given) = match direct(left, buffer.len()) {
            0 => (self.window.room(left.min(WINDOW_BYTES)), false),
            count => (&mut buffer[..count], true),
        };
        let filled = current.file.fill(room).map_err(|error| named(&current.entry.path, error))?;
        room[filled..].fill(0);
        verify(&self.report, self.check, (&current.file, &current.entry), current.read, &mut room[..filled])?;
        current.hasher.update(room);
        let count = room.len();
        current.read += count as u64;
        self.state = State::Within(current);
        if is_given {
            return Ok(Advance::Given(count));
        }
        self.window.hold(count);
        Ok(Advance::Held)
    }

    fn line(&self, entry: &Entry, content: Option<(u64, Option<u128>)>, pages: Option<u32>) {
        lock(&self.report).line(self.number, entry, content, pages);
    }
}

/// Bytes of the `left` ones of a file that are read straight into a buffer of `length`: all of them, or whole pages. Not
/// more than stay in a core's own cache until they are verified and digested.
fn direct(left: usize, length: usize) -> usize {
    let most = length.min(WINDOW_BYTES);
    if left <= most { left } else { most / PAGE_BYTES * PAGE_BYTES }
}

/// Verifies the whole pages in `bytes`, which begin at `start` of the file.
fn verify(
    report: &Mutex<PartReport>,
    check: Option<PageCheck>,
    (file, entry): (&OpenFile, &Entry),
    start: u64,
    bytes: &mut [u8],
) -> io::Result<()> {
    let (Some(check), Some(relation)) = (check, entry.relation) else { return Ok(()) };
    for (number, page) in (0..).zip(bytes.chunks_exact_mut(PAGE_BYTES)) {
        let offset = start + number * PAGE_BYTES as u64;
        let block = check.block(relation, offset);
        if let Page::Broken(changed) = reread(file, page, offset, block)? {
            lock(report).note(DamagedPage { path: entry.path.clone(), block }, changed, check);
        }
    }
    Ok(())
}

/// A report, also where whoever held it panicked: what is in it stays true.
pub(super) fn lock(report: &Mutex<PartReport>) -> MutexGuard<'_, PartReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
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
        while self.window.is_given() && !buffer.is_empty() {
            match self.advance(buffer)? {
                Advance::Given(count) => return Ok(count),
                Advance::Held => {}
                Advance::Ended => return Ok(0),
            }
        }
        Ok(self.window.give(buffer))
    }
}

impl Assembly for PartReading {
    fn require_whole(&self) -> Result<(), SourceError> {
        match (&self.state, self.items.len()) {
            (State::Ended, 0) => Ok(()),
            (_, left) => Err(SourceError::new(format!("{left} files of a part were not read"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::durable;

    /// A part with `files` of these sizes, read into buffers of `length` bytes; with the digests its report names.
    fn archive(root: &Path, files: &[usize], length: usize) -> (Vec<u8>, Vec<Option<String>>) {
        let items = files.iter().enumerate().map(|(at, size)| {
            let pages = (at % 4 == 3).then(|| (0..*size as u32 / 8192).step_by(3).collect());
            let size = Some(*size as u64);
            let entry = Entry { path: format!("file{at}"), size, mode: 0o600, modified: 7, relation: None };
            Item { pages, entry }
        });
        let mut reading = PartReading::new(root.to_owned(), 1, items.collect(), None);
        let (mut bytes, mut buffer) = (Vec::new(), vec![0; length]);
        loop {
            match reading.read(&mut buffer).unwrap() {
                0 => break,
                count => bytes.extend_from_slice(&buffer[..count]),
            }
        }
        reading.require_whole().unwrap();
        let digests = lock(&reading.report).lines.iter().map(|line| line.digest.clone()).collect();
        (bytes, digests)
    }

    #[test]
    fn a_part_is_the_same_whatever_it_is_read_into() {
        let root = tempfile::tempdir().unwrap();
        let files = [0, 1, 8191, 8 * 8192, 8192, 8193, 1_000_001, 100 * 8192, 300_000];
        let content =
            |at: usize| (0..files[at] as u32).map(|byte| (byte.wrapping_mul(byte) / 11) as u8 ^ at as u8).collect();
        let contents: Vec<Vec<u8>> = (0..files.len()).map(content).collect();
        for (at, content) in contents.iter().enumerate() {
            durable::replace(&root.path().join(format!("file{at}")), content).unwrap();
        }
        let (whole, digests) = archive(root.path(), &files, 16 << 20);
        let is_there = |content: &Vec<u8>| whole.windows(content.len().max(1)).any(|window| window == content);
        assert!(is_there(&contents[8]) && is_there(&contents[6]) && !is_there(&contents[7]), "files and pages");
        for (content, digest) in contents.iter().zip(digests.clone()).filter(|(_, digest)| digest.is_some()) {
            assert_eq!(digest.unwrap(), format!("{:032x}", xxhash_rust::xxh3::xxh3_128(content)));
        }
        for length in [1000, 8191, 8192, 20_000, WINDOW_BYTES - 512, WINDOW_BYTES, 1 << 20] {
            assert!(archive(root.path(), &files, length) == (whole.clone(), digests.clone()), "by {length} bytes");
        }
    }
}
