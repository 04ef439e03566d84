//! The header of a WAL segment, and whether the segment is the one that its name says.
//!
//! Every segment begins with a long page header (`access/xlog_internal.h`, `XLogLongPageHeaderData`), in the machine's
//! byte order. The surprising thing: the first segment of a new timeline repeats the old one's up to the switch, so its
//! first page bears the old timeline's number.

use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::timeline::TimelineHistory;
use crate::model::wal::SegmentName;
use crate::postgres::control::DataDirectory;

/// Bytes of a long page header.
pub const HEADER_BYTES: usize = 40;

/// `XLOG_PAGE_MAGIC` by major version.
const MAGIC: [(u32, u16); 5] = [(14, 0xD10D), (15, 0xD110), (16, 0xD113), (17, 0xD116), (18, 0xD118)];

/// `XLP_LONG_HEADER`.
const LONG_HEADER: u16 = 0x0002;

/// What the first page of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which version's format it is.
    pub magic: u16,
    /// The timeline of the first record on the page.
    pub timeline: Timeline,
    /// The position of the segment's first byte.
    pub address: Lsn,
    /// The cluster's identifier.
    pub system_identifier: SystemId,
    /// The segment's size in bytes.
    pub segment_size: u32,
}

/// The major version whose pages bear `magic`.
pub fn major_of(magic: u16) -> Option<u32> {
    MAGIC.iter().find(|(_, known)| *known == magic).map(|(major, _)| *major)
}

/// Why a segment is not the one that its name says: lower-case, fits after "failed to".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("take {name} for a segment of this cluster: {what}")]
pub struct WrongSegment {
    name: SegmentName,
    what: String,
}

impl SegmentHeader {
    /// Reads the first [`HEADER_BYTES`] of a segment; nothing when they are no long header.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER_BYTES] = bytes.first_chunk()?;
        let short = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| bytes[at..].first_chunk().map(|bytes| u64::from_ne_bytes(*bytes));
        (short(2) & LONG_HEADER != 0).then_some(Self {
            magic: short(0),
            timeline: Timeline(word(4)),
            address: Lsn(long(8)?),
            system_identifier: SystemId(long(24)?),
            segment_size: word(32),
        })
    }
}

/// Checks that `first`, the first bytes of a file of `bytes` bytes, begin the segment `name` of the cluster in
/// `directory`. `history` is asked for that of the segment's timeline only where the header names another one.
pub fn check(
    name: SegmentName,
    first: &[u8],
    bytes: u64,
    directory: &DataDirectory,
    history: impl FnOnce() -> Option<TimelineHistory>,
) -> Result<(), WrongSegment> {
    let wrong = |what: String| Err(WrongSegment { name, what });
    let size = directory.segment_size;
    let Some(header) = SegmentHeader::parse(first) else {
        return wrong("it does not begin as a segment does".into());
    };
    if bytes != size.bytes() || u64::from(header.segment_size) != size.bytes() {
        let told = header.segment_size;
        return wrong(format!("it has {bytes} bytes and says {told}; this cluster's segments have {}", size.bytes()));
    }
    if let Some((_, magic)) = MAGIC.iter().find(|(major, magic)| *major == directory.major && *magic != header.magic) {
        return wrong(format!(
            "its magic is {:04X}, not {magic:04X} as of PostgreSQL {}",
            header.magic, directory.major
        ));
    }
    if header.system_identifier != directory.system_identifier {
        let (theirs, ours) = (header.system_identifier, directory.system_identifier);
        return wrong(format!("it is of the system {theirs}, and this one is {ours}"));
    }
    if name.start(size) != Some(header.address) {
        return wrong(format!("it begins at {}, which is not where its name puts it", header.address));
    }
    let belongs = header.timeline == name.timeline()
        || history().is_some_and(|history| history.timeline_at(header.address) == header.timeline);
    match belongs {
        true => Ok(()),
        false => wrong(format!("it is of timeline {}, and no history leads from there", header.timeline.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::wal::SegmentSize;

    const MIB: u64 = 1 << 20;

    fn directory() -> DataDirectory {
        DataDirectory {
            path: "/data".into(),
            major: 15,
            system_identifier: SystemId(7_000_000_000_000_000_001),
            segment_size: SegmentSize::new(MIB).unwrap(),
            writes: Some(Timeline(1)),
        }
    }

    fn header(magic: u16, timeline: u32, address: u64, system: u64, size: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(magic.to_ne_bytes());
        bytes.extend(LONG_HEADER.to_ne_bytes());
        bytes.extend(timeline.to_ne_bytes());
        bytes.extend(address.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(system.to_ne_bytes());
        bytes.extend(size.to_ne_bytes());
        bytes.extend(8192_u32.to_ne_bytes());
        bytes
    }

    fn good() -> Vec<u8> {
        header(0xD110, 2, 0x300_0000, 7_000_000_000_000_000_001, 1 << 20)
    }

    fn verdict(bytes: &[u8], length: u64) -> Result<(), WrongSegment> {
        check("000000020000000000000030".parse().unwrap(), bytes, length, &directory(), || None)
    }

    #[test]
    fn f58_a_segment_that_is_what_its_name_says_is_taken() {
        verdict(&good(), MIB).unwrap();
    }

    #[test]
    fn f58_every_other_segment_is_refused() {
        let system = 7_000_000_000_000_000_001;
        let cases = [
            ("magic", header(0xD10D, 2, 0x300_0000, system, 1 << 20), MIB),
            ("timeline", header(0xD110, 1, 0x300_0000, system, 1 << 20), MIB),
            ("later timeline", header(0xD110, 3, 0x300_0000, system, 1 << 20), MIB),
            ("address", header(0xD110, 2, 0x310_0000, system, 1 << 20), MIB),
            ("system", header(0xD110, 2, 0x300_0000, system + 1, 1 << 20), MIB),
            ("size told", header(0xD110, 2, 0x300_0000, system, 16 << 20), MIB),
            ("length", good(), MIB - 1),
            ("zeros", vec![0; 40], MIB),
            ("short", good()[..39].to_vec(), MIB),
        ];
        for (what, bytes, length) in cases {
            assert!(verdict(&bytes, length).is_err(), "{what}");
        }
    }

    #[test]
    fn f60_the_first_segment_of_a_timeline_begins_as_its_parents() {
        let bytes = header(0xD110, 1, 0x300_0000, 7_000_000_000_000_000_001, 1 << 20);
        let name = "000000020000000000000030".parse().unwrap();
        let with = |text: &str| {
            let history = TimelineHistory::parse(Timeline(2), text).unwrap();
            check(name, &bytes, MIB, &directory(), || Some(history))
        };
        with("1\t0/3000148\t\n").unwrap();
        assert!(with("1\t0/3000000\t\n").is_err(), "left before the segment began");
    }
}
