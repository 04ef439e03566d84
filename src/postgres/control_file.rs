//! The control file: whose data directory it is, and whether the bytes read are one whole state of it.
//!
//! `global/pg_control` is written in place, so a reader can see half of an old and half of a new one; its CRC-32C tells
//! (PostgreSQL, `catalog/pg_control.h`). Where the CRC stands differs between majors, so every place is tried.

use crate::model::lsn::{SystemId, Timeline};

/// Bytes of the file's meaningful beginning: it fits a sector, which is what makes it nearly atomic.
const SECTOR: usize = 512;
const LEAST_BYTES: usize = 200;

/// What the file says, as far as all majors write it alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Whose data directory it is.
    pub system_identifier: SystemId,
    /// `PG_CONTROL_VERSION`: 1300 for 13 to 17, 1800 for 18.
    pub version: u32,
    /// `DBState`: 1 and 2 are clean shutdowns of a primary and a standby.
    pub state: u32,
    /// The timeline of its last checkpoint (`checkPointCopy.ThisTimeLineID`, at byte 48 in all majors).
    pub timeline: Timeline,
}

impl ControlFile {
    /// Reads the file's bytes; nothing when no CRC in them agrees: they are torn, or no control file.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let ends = (LEAST_BYTES..SECTOR.min(bytes.len())).step_by(4);
        let whole = ends.filter_map(|at| Some((at, word(at)?))).any(|(at, crc)| crc32c::crc32c(&bytes[..at]) == crc);
        let identifier = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
        let read = || {
            let system_identifier = SystemId(identifier);
            Some(Self { system_identifier, version: word(8)?, state: word(16)?, timeline: Timeline(word(48)?) })
        };
        if whole { read() } else { None }
    }

    /// Whether the server that wrote it was shut down in good order.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.state, 1 | 2)
    }
}
