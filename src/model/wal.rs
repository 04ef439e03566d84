//! Names of the files that PostgreSQL archives, and counting with segments.
//!
//! A segment's name says its timeline and its place, but not its size: only with the size (1 MiB to 1 GiB, chosen by
//! initdb) does a name become a position. Source: PostgreSQL, `access/xlog_internal.h`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::model::lsn::{Lsn, Timeline};

const SMALLEST: u64 = 1 << 20;
const LARGEST: u64 = 1 << 30;

/// Bytes of one "log id", the middle eight digits of a name.
const LOG_BYTES: u64 = 1 << 32;

/// The size of a cluster's WAL segments: a power of two from 1 MiB to 1 GiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentSize(u64);

impl SegmentSize {
    /// The size of `bytes`; nothing when initdb could not have chosen it.
    pub fn new(bytes: u64) -> Option<Self> {
        let fits = bytes.is_power_of_two() && (SMALLEST..=LARGEST).contains(&bytes);
        fits.then_some(Self(bytes))
    }

    /// The size in bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }

    /// Segments to one log id.
    fn per_log(self) -> u64 {
        LOG_BYTES / self.0
    }

    /// The number of the segment that holds the byte at `position`.
    pub fn number_at(self, position: Lsn) -> u64 {
        position.0 / self.0
    }
}

/// The name of a WAL segment: 24 hexadecimal digits, eight each for timeline, log id and segment within it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SegmentName {
    timeline: Timeline,
    log: u32,
    segment: u32,
}

impl SegmentName {
    /// The segment `number` (counted from position 0) of `timeline`. Numbers beyond the last position wrap around.
    pub fn of_number(timeline: Timeline, number: u64, size: SegmentSize) -> Self {
        let (log, segment) = (number / size.per_log(), number % size.per_log());
        let half = |value: u64| u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX);
        Self { timeline, log: half(log), segment: half(segment) }
    }

    /// The segment of `timeline` that holds the byte at `position`.
    pub fn at(timeline: Timeline, position: Lsn, size: SegmentSize) -> Self {
        Self::of_number(timeline, size.number_at(position), size)
    }

    /// Its timeline.
    pub fn timeline(self) -> Timeline {
        self.timeline
    }

    /// Its number, counted from position 0; nothing when a cluster with such segments has no such name.
    pub fn number(self, size: SegmentSize) -> Option<u64> {
        let segment = u64::from(self.segment);
        (segment < size.per_log()).then(|| u64::from(self.log) * size.per_log() + segment)
    }

    /// The position of its first byte; nothing when a cluster with such segments has no such name.
    pub fn start(self, size: SegmentSize) -> Option<Lsn> {
        self.number(size).map(|number| Lsn(number * size.0))
    }

    /// The segment after it on the same timeline.
    pub fn next(self, size: SegmentSize) -> Option<Self> {
        self.number(size).map(|number| Self::of_number(self.timeline, number + 1, size))
    }

    /// Whether it is the segment `other`, or one after it, whatever the timelines of the two.
    pub fn is_at_or_after(self, other: Self) -> bool {
        (self.log, self.segment) >= (other.log, other.segment)
    }

    /// The first 16 digits: the folder it is stored in.
    pub fn folder(self) -> String {
        format!("{:08X}{:08X}", self.timeline.0, self.log)
    }
}

impl fmt::Display for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08X}{:08X}{:08X}", self.timeline.0, self.log, self.segment)
    }
}

impl fmt::Debug for SegmentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A text that is not the name of a file that PostgreSQL archives.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read {0:?} as the name of a WAL file")]
pub struct NotAWalFile(String);

impl FromStr for SegmentName {
    type Err = NotAWalFile;

    fn from_str(text: &str) -> Result<Self, NotAWalFile> {
        let part = |at: usize| text.get(at..at + 8).and_then(hexadecimal);
        let whole = || match (text.len(), part(0), part(8), part(16)) {
            (24, Some(timeline), Some(log), Some(segment)) if timeline > 0 => {
                Some(Self { timeline: Timeline(timeline), log, segment })
            }
            _ => None,
        };
        whole().ok_or_else(|| not_a_wal_file(text))
    }
}

impl TryFrom<String> for SegmentName {
    type Error = NotAWalFile;

    fn try_from(text: String) -> Result<Self, NotAWalFile> {
        text.parse()
    }
}

impl From<SegmentName> for String {
    fn from(name: SegmentName) -> Self {
        name.to_string()
    }
}

/// Eight upper-case digits, as PostgreSQL writes them.
fn hexadecimal(text: &str) -> Option<u32> {
    let ours = text.len() == 8 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'));
    if ours { u32::from_str_radix(text, 16).ok() } else { None }
}

fn not_a_wal_file(text: &str) -> NotAWalFile {
    NotAWalFile(text.chars().take(100).collect())
}

/// Which repositories are asked for a WAL file, and whose word proves that it is not archived.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Asked {
    /// All of them, and each has to say so.
    #[default]
    All,
    /// All of them, this one first; its word is enough where others cannot be asked.
    Believing(String),
    /// This one and no other.
    Only(String),
}

/// A file that PostgreSQL hands to `archive_command` or asks of `restore_command`, by its name.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum WalFile {
    /// A whole segment.
    Segment(SegmentName),
    /// The last segment of a timeline that was left in its middle: `….partial`. Never used automatically.
    Partial(SegmentName),
    /// The note that a base backup leaves: `….00000028.backup`.
    Backup {
        /// The segment it began in.
        segment: SegmentName,
        /// Where in it, in bytes.
        offset: u32,
    },
    /// Where a timeline comes from: `00000002.history`.
    History(Timeline),
}

impl WalFile {
    /// The timeline it belongs to.
    pub fn timeline(self) -> Timeline {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup { segment, .. } => segment.timeline,
            Self::History(timeline) => timeline,
        }
    }

    /// The segment it is, or is about; a history is about none.
    pub fn segment(self) -> Option<SegmentName> {
        match self {
            Self::Segment(segment) | Self::Partial(segment) | Self::Backup { segment, .. } => Some(segment),
            Self::History(_) => None,
        }
    }

    /// Whether it has the size and the header of a segment.
    pub fn is_segment_sized(self) -> bool {
        matches!(self, Self::Segment(_) | Self::Partial(_))
    }
}

impl FromStr for WalFile {
    type Err = NotAWalFile;

    fn from_str(text: &str) -> Result<Self, NotAWalFile> {
        let Some((stem, suffix)) = text.split_once('.') else {
            return text.parse().map(Self::Segment);
        };
        let read = || match suffix {
            "history" => hexadecimal(stem).filter(|timeline| *timeline > 0).map(|id| Self::History(Timeline(id))),
            "partial" => stem.parse().ok().map(Self::Partial),
            _ => {
                let offset = hexadecimal(suffix.strip_suffix(".backup")?)?;
                stem.parse().ok().map(|segment| Self::Backup { segment, offset })
            }
        };
        read().ok_or_else(|| not_a_wal_file(text))
    }
}

impl fmt::Display for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
            Self::Backup { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
            Self::History(timeline) => write!(f, "{:08X}.history", timeline.0),
        }
    }
}

impl fmt::Debug for WalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for WalFile {
    type Error = NotAWalFile;

    fn try_from(text: String) -> Result<Self, NotAWalFile> {
        text.parse()
    }
}

impl From<WalFile> for String {
    fn from(file: WalFile) -> Self {
        file.to_string()
    }
}

/// Segments of one timeline without a gap, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SegmentRange {
    /// The first.
    pub first: SegmentName,
    /// The last.
    pub last: SegmentName,
}

impl SegmentRange {
    /// How many segments of `size` it holds.
    pub fn count(&self, size: SegmentSize) -> u64 {
        match (self.first.number(size), self.last.number(size)) {
            (Some(first), Some(last)) if first <= last => last - first + 1,
            _ => 0,
        }
    }

    /// The segments in it, ascending.
    pub fn segments(self, size: SegmentSize) -> impl Iterator<Item = SegmentName> {
        std::iter::successors(Some(self.first), move |segment| segment.next(size))
            .take_while(move |segment| *segment <= self.last)
    }

    /// Whether `segment` is within it.
    pub fn contains(&self, segment: SegmentName) -> bool {
        self.first <= segment && segment <= self.last
    }
}

/// Segments given in ascending order, joined to ranges. Memory: one range for each gap.
#[derive(Clone, Debug)]
pub struct SegmentRanges {
    size: SegmentSize,
    ranges: Vec<SegmentRange>,
}

impl SegmentRanges {
    /// None yet, of segments of `size`.
    pub fn new(size: SegmentSize) -> Self {
        Self { size, ranges: Vec::new() }
    }

    /// Takes the next segment, of the same timeline as those before it.
    pub fn push(&mut self, segment: SegmentName) {
        match self.ranges.last_mut() {
            Some(range) if range.last == segment => {}
            Some(range) if range.last.next(self.size) == Some(segment) => range.last = segment,
            _ => self.ranges.push(SegmentRange { first: segment, last: segment }),
        }
    }

    /// The ranges, ascending.
    pub fn finish(self) -> Vec<SegmentRange> {
        self.ranges
    }
}

/// What lies between `ranges`, which are ascending and of one timeline: the segments that are missing.
pub fn gaps(ranges: &[SegmentRange], size: SegmentSize) -> Vec<SegmentRange> {
    let between = ranges.windows(2).filter_map(|pair| {
        let first = pair[0].last.next(size)?;
        let after = pair[1].first.number(size)?;
        let last = SegmentName::of_number(first.timeline, after.checked_sub(1)?, size);
        (first <= last).then_some(SegmentRange { first, last })
    });
    between.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(megabytes: u64) -> SegmentSize {
        SegmentSize::new(megabytes << 20).unwrap()
    }

    fn segment(text: &str) -> SegmentName {
        text.parse().unwrap()
    }

    #[test]
    fn f65_a_size_is_one_that_initdb_takes() {
        for megabytes in [1, 2, 16, 64, 1024] {
            assert_eq!(size(megabytes).bytes(), megabytes << 20);
        }
        for bytes in [0, 1 << 19, 3 << 20, 1 << 31, u64::MAX] {
            assert_eq!(SegmentSize::new(bytes), None, "{bytes}");
        }
    }

    #[test]
    fn f65_a_name_is_a_position_only_with_the_size() {
        let name = segment("000000010000000A000000FE");
        assert_eq!(name.start(size(16)), Some(Lsn(0xA_FE00_0000)));
        assert_eq!(name.start(size(1)), Some(Lsn(0xA_0FE0_0000)));
        assert_eq!(name.start(size(64)), None, "64 MiB segments end at 3F");
        assert_eq!(SegmentName::at(Timeline(1), Lsn(0xA_FEFF_FFFF), size(16)), name);
    }

    #[test]
    fn the_next_segment_crosses_into_the_next_log_id() {
        let next = |text: &str, megabytes| segment(text).next(size(megabytes)).unwrap().to_string();
        assert_eq!(next("0000000100000000000000FF", 16), "000000010000000100000000");
        assert_eq!(next("000000020000000000000FFE", 1), "000000020000000000000FFF");
        assert_eq!(next("000000020000000000000FFF", 1), "000000020000000100000000");
        assert_eq!(next("00000002000000000000003F", 64), "000000020000000100000000");
    }

    #[test]
    fn f59_every_kind_of_file_is_told_from_its_name() {
        let name = segment("000000020000000300000004");
        let kinds = [
            ("000000020000000300000004", WalFile::Segment(name)),
            ("000000020000000300000004.partial", WalFile::Partial(name)),
            ("000000020000000300000004.00000028.backup", WalFile::Backup { segment: name, offset: 0x28 }),
            ("00000002.history", WalFile::History(Timeline(2))),
        ];
        for (text, file) in kinds {
            assert_eq!(text.parse::<WalFile>().unwrap(), file);
            assert_eq!(file.to_string(), text);
        }
    }

    #[test]
    fn f41_other_names_are_refused() {
        for text in [
            "",
            "RECOVERYXLOG",
            "00000002000000030000000",
            "0000000200000003000000041",
            "00000002000000030000000g",
            "00000002000000030000000a",
            "000000000000000300000004",
            "+00000020000000300000004",
            "000000020000000300000004.part",
            "000000020000000300000004.28.backup",
            "000000020000000300000004.partial.partial",
            "2.history",
            "00000000.history",
            "../000000020000000300000004",
            "000000020000000300000004é",
            "0000000é0000000300000004",
        ] {
            assert!(text.parse::<WalFile>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn f57_gaps_are_what_lies_between_ranges() {
        let mut ranges = SegmentRanges::new(size(16));
        for low in [0xFC, 0xFD, 0x100, 0x101, 0x101, 0x104] {
            ranges.push(SegmentName::of_number(Timeline(1), low, size(16)));
        }
        let ranges = ranges.finish();
        assert_eq!(ranges.iter().map(|range| range.count(size(16))).collect::<Vec<_>>(), [2, 2, 1]);
        let gaps: Vec<_> =
            gaps(&ranges, size(16)).iter().map(|gap| (gap.first.to_string(), gap.count(size(16)))).collect();
        assert_eq!(gaps, [("0000000100000000000000FE".to_owned(), 2), ("000000010000000100000002".to_owned(), 2)]);
    }

    #[test]
    fn names_survive_json() {
        let file: WalFile = "000000020000000300000004.partial".parse().unwrap();
        let text = serde_json::to_string(&file).unwrap();
        assert_eq!(text, "\"000000020000000300000004.partial\"");
        assert_eq!(serde_json::from_str::<WalFile>(&text).unwrap(), file);
    }
}
