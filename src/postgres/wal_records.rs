//! Pages of the log into records: across pages and segments, each checked by its CRC-32C.
//!
//! Follows `access/xlog_internal.h` (page headers), `access/xlogrecord.h` (the fixed part of a record) and
//! `access/transam/xlogreader.c`; alike from PostgreSQL 14 to 18 for pages of 8 KiB, the only size that packagers build.
//! Memory is bounded: of a record that may have a gigabyte only the beginning is kept, which is where everything stands
//! that says what it changes. The surprising thing: a record cut off by a crash stays where it is, and the page on which
//! the log goes on after it says so (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).

use crate::model::blocks::RecordTail;
use crate::model::lsn::Lsn;
use crate::model::wal::SegmentSize;
use crate::postgres::wal_page::major_of;

/// Bytes of a page of the log (`XLOG_BLCKSZ`).
pub const WAL_PAGE_BYTES: usize = 8192;
/// Bytes of a record's fixed part (`SizeOfXLogRecord`).
pub const FIXED_BYTES: usize = 24;

const PAGE: u64 = WAL_PAGE_BYTES as u64;
const SHORT_HEADER: usize = 24;
const LONG_HEADER: usize = 40;
const IS_CONTINUED: u16 = 0x0001;
const IS_LONG: u16 = 0x0002;
const IS_OVERWRITTEN: u16 = 0x0008;
/// Largest record, in bytes (`XLogRecordMaxSize`; before PostgreSQL 16 what a backend can allocate at once).
const LARGEST: u32 = 1 << 30;
/// Bytes of a record that are kept: headers of 33 block references have less than 1 KiB.
const KEPT_BYTES: usize = 16 << 10;
const CRC_AT: usize = 20;
const MANAGER_XLOG: u8 = 0;
const SWITCH: u8 = 0x40;

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Where it begins.
    pub start: Lsn,
    /// Where the next one begins.
    pub end: Lsn,
    /// The major version that wrote it.
    pub major: u32,
    /// Its resource manager (`access/rmgrlist.h`).
    pub manager: u8,
    /// Its kind and flags (`xl_info`).
    pub info: u8,
    /// Bytes of all of it.
    pub length: u32,
    /// What follows the fixed part, as far as it was kept.
    pub body: &'a [u8],
}

/// Why the log cannot be read on: lower-case, fits after "failed to".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read the log at {at}: {what}")]
pub struct WalFault {
    /// Where.
    pub at: Lsn,
    /// Why.
    pub what: &'static str,
}

/// Reads pages in order. After a fault it must not be given more.
#[derive(Debug)]
pub struct RecordReader {
    size: SegmentSize,
    next_page: Lsn,
    magic: Option<(u16, u32)>,
    state: State,
    from: Option<Lsn>,
    to: Lsn,
    previous: Option<Lsn>,
    partial: Partial,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing is known of what comes before the first page.
    Seeking,
    /// So much is left of a record that began before.
    Passing(u64),
    Between,
    Within,
    /// The log was switched: the rest of the segment is empty.
    Switched,
}

/// A record of which more is to come.
#[derive(Debug, Default)]
struct Partial {
    start: Lsn0,
    total: u32,
    got: u32,
    crc: u32,
    kept: Vec<u8>,
}

/// A position that begins as zero.
type Lsn0 = u64;

struct PageHeader {
    flags: u16,
    left: u32,
    bytes: usize,
}

impl RecordReader {
    /// Reads from the page at `first` on, of a log whose segments have `size`.
    pub fn new(size: SegmentSize, first: Lsn) -> Self {
        let first = Lsn(first.0 / PAGE * PAGE);
        Self {
            size,
            next_page: first,
            magic: None,
            state: State::Seeking,
            from: None,
            to: place(first, size),
            previous: None,
            partial: Partial::default(),
        }
    }

    /// Reads on from the page at `first`, where the record goes on that `tail` is the beginning of.
    pub fn resume(size: SegmentSize, first: Lsn, tail: &RecordTail) -> Option<Self> {
        let major = major_of(tail.magic)?;
        let RecordTail { start, total, got, crc, ref kept, .. } = *tail;
        let is_one = got < total && total <= LARGEST && kept.len() == (got as usize).min(KEPT_BYTES);
        is_one.then(|| Self {
            magic: Some((tail.magic, major)),
            state: State::Within,
            from: Some(start),
            to: start,
            previous: Some(tail.previous).filter(|previous| *previous != Lsn(0)),
            partial: Partial { start: start.0, total, got, crc, kept: kept.clone() },
            ..Self::new(size, first)
        })
    }

    /// What was read of a record that goes on behind the last page.
    pub fn tail(&self) -> Option<RecordTail> {
        let (State::Within, Some((magic, _))) = (self.state, self.magic) else { return None };
        let Partial { start, total, got, crc, ref kept } = self.partial;
        let previous = self.previous.unwrap_or(Lsn(0));
        Some(RecordTail { start: Lsn(start), previous, magic, total, got, crc, kept: kept.clone() })
    }

    /// Whether the page that begins with `header` (at least 24 bytes) goes on where this one stopped, by what it says.
    pub fn fits(&self, header: &[u8]) -> bool {
        let flags = header.get(2..4).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
        let continued = (flags & IS_CONTINUED != 0).then(|| u64::from(word(header, 16)));
        let expected = match self.state {
            State::Within => Some(u64::from(self.partial.total - self.partial.got)),
            State::Passing(left) => Some(left),
            State::Seeking => return true,
            State::Between | State::Switched => None,
        };
        continued == expected
    }

    /// Where the first record begins of which nothing came before; maybe beyond what was read.
    pub fn from(&self) -> Option<Lsn> {
        match self.state {
            State::Passing(left) => Some(after(self.next_page, left, self.size)),
            _ => self.from,
        }
    }

    /// Where the record after the last whole one begins.
    pub fn to(&self) -> Lsn {
        self.to
    }

    /// The record of which only the beginning was read, unproven; with where it will end.
    pub fn unfinished(&self) -> Option<Record<'_>> {
        let Partial { start, total, got, ref kept, .. } = self.partial;
        let (true, Some((_, major))) = (self.state == State::Within, self.magic) else { return None };
        let end = after(self.next_page, u64::from(total - got), self.size);
        Some(Record {
            start: Lsn(start),
            end,
            major,
            manager: *kept.get(17)?,
            info: *kept.get(16)?,
            length: total,
            body: kept.get(FIXED_BYTES..)?,
        })
    }

    /// Takes the next page and shows the records that end on it to `visit`.
    pub fn page(&mut self, page: &[u8], visit: &mut dyn FnMut(Record<'_>)) -> Result<(), WalFault> {
        let at = self.next_page;
        let fault = |what| WalFault { at, what };
        let page: &[u8; WAL_PAGE_BYTES] = page.try_into().map_err(|_| fault("a page is short"))?;
        if at.0.is_multiple_of(self.size.bytes()) && self.state == State::Switched {
            self.state = State::Between;
        }
        if self.state == State::Switched {
            self.next_page = Lsn(at.0 + PAGE);
            return Ok(());
        }
        let header = self.header(page)?;
        self.begin(&header, at)?;
        self.next_page = Lsn(at.0 + PAGE);
        self.records(page, header.bytes, at, visit)
    }

    fn header(&mut self, page: &[u8; WAL_PAGE_BYTES]) -> Result<PageHeader, WalFault> {
        let at = self.next_page;
        let fault = |what| Err(WalFault { at, what });
        let short = |at: usize| u16::from_ne_bytes([page[at], page[at + 1]]);
        let (magic, flags) = (short(0), short(2));
        let major = major_of(magic);
        match (self.magic, major) {
            (_, None) if magic == 0 => return fault("nothing was written there"),
            (_, None) => return fault("its page is not of PostgreSQL 14 to 18"),
            (Some((before, _)), _) if before != magic => return fault("its page is of another version"),
            (_, Some(major)) => self.magic = Some((magic, major)),
        }
        if long(page, 8) != at.0 {
            return fault("its page belongs elsewhere");
        }
        let is_long = flags & IS_LONG != 0;
        if is_long != at.0.is_multiple_of(self.size.bytes()) {
            return fault("its page header has the wrong form");
        }
        if is_long && word(page, 36) != PAGE as u32 {
            return fault("its pages do not have 8 KiB");
        }
        let bytes = if is_long { LONG_HEADER } else { SHORT_HEADER };
        Ok(PageHeader { flags, left: word(page, 16), bytes })
    }

    /// Whether the page goes on where the one before it ended.
    fn begin(&mut self, header: &PageHeader, at: Lsn) -> Result<(), WalFault> {
        let fault = |what| Err(WalFault { at, what });
        let continues = header.flags & IS_CONTINUED != 0;
        if header.flags & IS_OVERWRITTEN != 0 && !continues {
            // What came before was cut off by a crash, and never happened.
            self.state = State::Between;
            self.begin_here(at, header.bytes);
            return Ok(());
        }
        match self.state {
            State::Seeking if continues => self.state = State::Passing(header.left.into()),
            State::Seeking => {
                self.state = State::Between;
                self.begin_here(at, header.bytes);
            }
            State::Passing(left) if !continues || left != u64::from(header.left) => {
                return fault("a record is not continued");
            }
            State::Within if !continues || self.partial.total - self.partial.got != header.left => {
                return fault("a record is not continued");
            }
            State::Between if continues => return fault("a record is continued that did not begin"),
            _ => {}
        }
        Ok(())
    }

    fn begin_here(&mut self, page: Lsn, header: usize) {
        let here = Lsn(page.0 + header as u64);
        self.from.get_or_insert(here);
        self.to = here;
    }

    fn records(
        &mut self,
        page: &[u8; WAL_PAGE_BYTES],
        mut at: usize,
        address: Lsn,
        visit: &mut dyn FnMut(Record<'_>),
    ) -> Result<(), WalFault> {
        while at < WAL_PAGE_BYTES {
            match self.state {
                State::Seeking | State::Switched => return Ok(()),
                State::Passing(left) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(WAL_PAGE_BYTES - at);
                    at += taken;
                    self.state = State::Passing(left - taken as u64);
                    if left == taken as u64 {
                        at = at.next_multiple_of(8);
                        self.state = State::Between;
                        let here = place(Lsn(address.0 + at as u64), self.size);
                        self.from.get_or_insert(here);
                        self.to = here;
                    }
                }
                State::Between => self.start(page, at, address)?,
                State::Within => {
                    let left = usize::try_from(self.partial.total - self.partial.got).unwrap_or(usize::MAX);
                    let taken = left.min(WAL_PAGE_BYTES - at);
                    self.partial.take(&page[at..at + taken]);
                    at += taken;
                    if taken == left {
                        at = at.next_multiple_of(8);
                        self.end(Lsn(address.0 + at as u64), visit)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A record begins; its length always stands on one page, because records begin at multiples of 8.
    fn start(&mut self, page: &[u8; WAL_PAGE_BYTES], at: usize, address: Lsn) -> Result<(), WalFault> {
        let start = Lsn(address.0 + at as u64);
        let total = word(page, at);
        match total {
            0 => return Err(WalFault { at: start, what: "the log ends there" }),
            total if (total as usize) < FIXED_BYTES || total > LARGEST => {
                return Err(WalFault { at: start, what: "a record has an impossible length" });
            }
            _ => {}
        }
        self.partial.kept.clear();
        (self.partial.start, self.partial.total) = (start.0, total);
        (self.partial.got, self.partial.crc) = (0, 0);
        self.state = State::Within;
        Ok(())
    }

    fn end(&mut self, end: Lsn, visit: &mut dyn FnMut(Record<'_>)) -> Result<(), WalFault> {
        let start = Lsn(self.partial.start);
        let fault = |what| WalFault { at: start, what };
        let fixed = self.partial.kept.get(..FIXED_BYTES).ok_or_else(|| fault("a record is short"))?;
        if crc32c::crc32c_append(self.partial.crc, &fixed[..CRC_AT]) != word(fixed, CRC_AT) {
            return Err(fault("the checksum of a record is wrong"));
        }
        if self.previous.is_some_and(|previous| previous.0 != long(fixed, 8)) {
            return Err(fault("a record follows another one than it says"));
        }
        let (info, manager) = (fixed[16], fixed[17]);
        let is_switch = manager == MANAGER_XLOG && info & 0xF0 == SWITCH;
        let bytes = self.size.bytes();
        let end = if is_switch { Lsn(end.0.next_multiple_of(bytes)) } else { end };
        self.state = if is_switch { State::Switched } else { State::Between };
        self.previous = Some(start);
        self.to = place(end, self.size);
        let major = self.magic.map_or(0, |(_, major)| major);
        let body = &self.partial.kept[FIXED_BYTES..];
        visit(Record { start, end: self.to, major, manager, info, length: self.partial.total, body });
        Ok(())
    }
}

impl Partial {
    fn take(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // The checksum goes over what follows the fixed part first, and over the fixed part last.
        let fixed = FIXED_BYTES.saturating_sub(self.got as usize).min(bytes.len());
        self.crc = crc32c::crc32c_append(self.crc, &bytes[fixed..]);
        self.got += bytes.len() as u32;
    }
}

/// Whether a record begins on the page that begins with `header` (at least 24 bytes), going by what continues on it.
pub fn begins_a_record(header: &[u8]) -> bool {
    let flags = header.get(2..4).map_or(0, |bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    let left = word(header, 16) as usize;
    flags & IS_CONTINUED == 0 || left < WAL_PAGE_BYTES - LONG_HEADER
}

/// Where a record can begin at `position`: behind the page header that stands there, if one does.
pub fn place(position: Lsn, size: SegmentSize) -> Lsn {
    Lsn(position.0 + header_at(position, size))
}

fn header_at(position: Lsn, size: SegmentSize) -> u64 {
    match (position.0 % PAGE, position.0 % size.bytes()) {
        (0, 0) => LONG_HEADER as u64,
        (0, _) => SHORT_HEADER as u64,
        _ => 0,
    }
}

/// Where the record after one begins of which `left` bytes follow from the page at `page` on.
fn after(page: Lsn, mut left: u64, size: SegmentSize) -> Lsn {
    let mut page = page;
    loop {
        let header = header_at(page, size);
        if header + left <= PAGE {
            return place(Lsn((page.0 + header + left).next_multiple_of(8)), size);
        }
        left -= PAGE - header;
        page = Lsn(page.0 + PAGE);
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> SegmentSize {
        SegmentSize::new(MIB).unwrap()
    }

    /// Writes a log as PostgreSQL does, for what a real one shows too seldom.
    struct Writer {
        first: u64,
        bytes: Vec<u8>,
        previous: u64,
    }

    impl Writer {
        fn at(first: u64) -> Self {
            Self { first, bytes: Vec::new(), previous: 0 }
        }

        fn header(&mut self, flags: u16, left: u32) {
            let at = self.first + self.bytes.len() as u64;
            let is_long = at.is_multiple_of(MIB);
            let flags = flags | if is_long { IS_LONG } else { 0 };
            self.bytes.extend(0xD110_u16.to_ne_bytes());
            self.bytes.extend(flags.to_ne_bytes());
            self.bytes.extend(1_u32.to_ne_bytes());
            self.bytes.extend(at.to_ne_bytes());
            self.bytes.extend(left.to_ne_bytes());
            self.bytes.extend([0; 4]);
            if is_long {
                self.bytes.extend(7_u64.to_ne_bytes());
                self.bytes.extend((MIB as u32).to_ne_bytes());
                self.bytes.extend(8192_u32.to_ne_bytes());
            }
        }

        fn record(&mut self, manager: u8, info: u8, body: &[u8]) -> Lsn {
            let mut record = Vec::new();
            record.extend((FIXED_BYTES as u32 + body.len() as u32).to_ne_bytes());
            record.extend([0; 4]);
            record.extend(self.previous.to_ne_bytes());
            record.extend([info, manager, 0, 0]);
            let crc = crc32c::crc32c_append(crc32c::crc32c(body), &record);
            record.extend(crc.to_ne_bytes());
            record.extend(body);
            self.put(&record)
        }

        fn put(&mut self, record: &[u8]) -> Lsn {
            if self.bytes.len().is_multiple_of(WAL_PAGE_BYTES) {
                self.header(0, 0);
            }
            let start = self.first + self.bytes.len() as u64;
            self.previous = start;
            let mut rest = record;
            loop {
                let room = WAL_PAGE_BYTES - self.bytes.len() % WAL_PAGE_BYTES;
                let (here, more) = rest.split_at(rest.len().min(room));
                self.bytes.extend(here);
                rest = more;
                if rest.is_empty() {
                    break;
                }
                self.header(IS_CONTINUED, rest.len() as u32);
            }
            let aligned = self.bytes.len().next_multiple_of(8);
            self.bytes.resize(aligned, 0);
            Lsn(start)
        }

        /// Pads to the end of the page.
        fn pages(mut self) -> Vec<u8> {
            let whole = self.bytes.len().next_multiple_of(WAL_PAGE_BYTES);
            self.bytes.resize(whole, 0);
            self.bytes
        }
    }

    type Seen = Vec<(Lsn, usize)>;

    fn read(first: u64, bytes: &[u8]) -> (Seen, RecordReader, Option<WalFault>) {
        let mut reader = RecordReader::new(size(), Lsn(first));
        let mut seen = Vec::new();
        for page in bytes.chunks(WAL_PAGE_BYTES) {
            let read = reader.page(page, &mut |record| seen.push((record.start, record.body.len())));
            if let Err(fault) = read {
                return (seen, reader, Some(fault));
            }
        }
        (seen, reader, None)
    }

    #[test]
    fn records_come_out_as_they_went_in_whatever_page_or_segment_they_cross() {
        let mut writer = Writer::at(MIB - 2 * PAGE);
        let lengths = [10, 8000, 0, 200, 20_000, 8104, 8192, 3, 16_000];
        let starts: Vec<_> = lengths.iter().map(|length| writer.record(10, 0, &vec![7; *length])).collect();
        let (seen, reader, fault) = read(MIB - 2 * PAGE, &writer.pages());
        let expected: Vec<_> =
            starts.iter().zip(lengths).map(|(at, length)| (*at, length.min(KEPT_BYTES - 24))).collect();
        assert_eq!(seen, expected);
        assert_eq!(fault.unwrap().what, "the log ends there");
        assert_eq!(reader.from(), Some(starts[0]));
    }

    #[test]
    fn reading_from_the_middle_begins_with_the_first_record_that_begins_there() {
        let mut writer = Writer::at(0);
        writer.record(10, 0, &[1; 30_000]);
        let second = writer.record(10, 0, &[2; 10]);
        let pages = writer.pages();
        let (seen, reader, _) = read(PAGE, &pages[WAL_PAGE_BYTES..]);
        assert_eq!((seen, reader.from()), (vec![(second, 10)], Some(second)));
        let (seen, reader, fault) = read(0, &pages[..WAL_PAGE_BYTES]);
        let unfinished = reader.unfinished().unwrap();
        assert_eq!((seen, fault, unfinished.end, unfinished.length), (vec![], None, second, 30_024));
        assert_eq!(reader.to(), unfinished.start);
    }

    #[test]
    fn a_record_cut_anywhere_is_read_on_from_what_was_kept_of_it() {
        for (before, length) in [(WAL_PAGE_BYTES - 40 - 8 - 24, 100), (8000, 20_000), (100, 60_000), (8108, 30)] {
            let mut writer = Writer::at(0);
            writer.record(10, 0, &vec![1; before]);
            let start = writer.record(10, 0, &vec![2; length]);
            let last = writer.record(10, 0, &[3; 10]);
            let pages = writer.pages();
            let (whole, ..) = read(0, &pages);
            for cut in 1..pages.len() / WAL_PAGE_BYTES {
                let (first, rest) = pages.split_at(cut * WAL_PAGE_BYTES);
                let (mut seen, reader, _) = read(0, first);
                let Some(tail) = reader.tail() else { continue };
                assert_eq!(tail.start, start);
                let at = Lsn((cut * WAL_PAGE_BYTES) as u64);
                let mut reader = RecordReader::resume(size(), at, &tail).unwrap();
                assert!(reader.fits(rest) && !reader.fits(&[0; 24]));
                for page in rest.chunks(WAL_PAGE_BYTES) {
                    // The log ends on the last page.
                    let _ = reader.page(page, &mut |record| seen.push((record.start, record.body.len())));
                }
                assert_eq!(seen, whole, "cut at {at}");
                assert_eq!(seen.last().unwrap().0, last);
                let other = RecordTail { crc: tail.crc ^ 1, ..tail };
                let mut reader = RecordReader::resume(size(), at, &other).unwrap();
                let mut pages = rest.chunks(WAL_PAGE_BYTES);
                assert!(pages.any(|page| reader.page(page, &mut |_| panic!("not proven")).is_err()));
            }
        }
    }

    #[test]
    fn a_switch_ends_the_segment() {
        let mut writer = Writer::at(0);
        writer.record(0, SWITCH, &[]);
        let previous = writer.previous;
        let mut pages = writer.pages();
        pages.resize(MIB as usize, 0);
        let mut next = Writer { previous, ..Writer::at(MIB) };
        let after = next.record(10, 0, &[1; 4]);
        pages.extend(next.pages());
        let (seen, reader, _) = read(0, &pages);
        assert_eq!(seen, [(Lsn(40), 0), (after, 4)]);
        assert_eq!(after, place(Lsn(MIB), size()));
        assert!(reader.to() > after);
    }

    #[test]
    fn a_record_that_a_crash_cut_off_never_happened() {
        let mut writer = Writer::at(0);
        let first = writer.record(10, 0, &[1; 100]);
        writer.record(10, 0, &[2; 9000]);
        let mut pages = writer.pages();
        pages.truncate(WAL_PAGE_BYTES);
        let mut next = Writer { previous: first.0, ..Writer::at(PAGE) };
        next.header(IS_OVERWRITTEN, 0);
        let gone_on = next.record(0, 0xD0, &[0; 16]);
        let mut with = pages.clone();
        with.extend(next.pages());
        assert_eq!(read(0, &with).0, [(first, 100), (gone_on, 16)]);
        let mut without = Writer { previous: first.0, ..Writer::at(PAGE) };
        without.record(0, 0xD0, &[0; 16]);
        pages.extend(without.pages());
        let (seen, _, fault) = read(0, &pages);
        assert_eq!((seen.len(), fault.unwrap().what), (1, "a record is not continued"));
    }

    #[test]
    fn damage_is_never_read_as_a_record() {
        let mut writer = Writer::at(0);
        for length in [10, 9000, 50, 70] {
            writer.record(10, 0x20, &vec![5; length]);
        }
        let length = writer.bytes.len();
        let pages = writer.pages();
        let (whole, ..) = read(0, &pages);
        assert_eq!(whole.len(), 4);
        for at in (0..length).step_by(3) {
            let mut damaged = pages.clone();
            damaged[at] ^= 1 << (at % 8);
            let (seen, reader, fault) = read(0, &damaged);
            let is_prefix = whole.starts_with(&seen);
            // Padding, the padding of headers, the timeline and the system identifier are no part of a record; a length
            // that grew leaves a record without an end.
            let is_cut = fault.is_some() || reader.unfinished().is_some();
            assert!(is_prefix && is_cut, "byte {at}: {seen:?}");
        }
    }
}
