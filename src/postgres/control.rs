//! The control file of a data directory: whose it is, what its server last noted there, how large WAL segments are.
//!
//! Reads the few fields that are needed, for the layout of PostgreSQL 14 to 18 on machines with 8-byte alignment
//! (`catalog/pg_control.h`). The server rewrites the file in place, so that a reader can see half of an old and half of
//! a new one; the checksum tells such a torn copy, and it is read again.

use std::path::{Path, PathBuf};

use crate::host::FileError;
use crate::host::durable::read_bounded;
use crate::model::base::CONTROL_FILE;
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::wal::{SegmentName, SegmentSize};

/// Largest control file, in bytes; PostgreSQL pads it to 8 KiB.
const LIMIT: u64 = 64 << 10;

/// How often a torn copy is read again.
const ATTEMPTS: u32 = 20;

/// Where the fields stand.
const VERSION_AT: usize = 8;
const STATE_AT: usize = 16;
const TIMELINE_AT: usize = 48;
const RECOVERY_POINT_AT: usize = 136;
const RECOVERY_TIMELINE_AT: usize = 144;
const SEGMENT_SIZE_AT: usize = 228;
/// `pg_control_version` and where the checksum over everything before it stands.
const LAYOUTS: [(u32, usize); 2] = [(1300, 288), (1800, 292)];

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Whose data directory it is.
    pub system_identifier: SystemId,
    /// `PG_CONTROL_VERSION`: 1300 for 13 to 17, 1800 for 18.
    pub version: u32,
    /// `DBState`: 1 and 2 are clean shutdowns of a primary and a standby.
    pub state: u32,
    /// The timeline of its last checkpoint (`checkPointCopy.ThisTimeLineID`).
    pub timeline: Timeline,
    /// Up to where a standby must replay at least before its files are consistent (`minRecoveryPoint`).
    pub recovery_point: Lsn,
    /// The timeline of that position; 0 where there is none.
    pub recovery_timeline: Timeline,
    /// The size of WAL segments.
    pub segment_size: SegmentSize,
}

impl ControlFile {
    /// Reads the control file of the data directory `path`, again while it is torn. Gives what it says, and its bytes.
    pub fn of(path: &Path) -> Result<(Self, Vec<u8>), DataDirectoryError> {
        let named = || path.display().to_string();
        let mut last = "its control file";
        for _ in 0..ATTEMPTS {
            let read = read_bounded(&path.join(CONTROL_FILE), LIMIT);
            let bytes = read.map_err(|source| DataDirectoryError::File { path: named(), source })?;
            match Self::read(&bytes) {
                Ok(control) => return Ok((control, bytes)),
                Err(what) => last = what,
            }
        }
        Err(DataDirectoryError::Malformed { path: named(), what: last.to_owned() })
    }

    /// Reads the file's bytes; nothing when they are torn, or no control file that this version knows.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        Self::read(bytes).ok()
    }

    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let short = "its control file is too short";
        let version = number(bytes, VERSION_AT).ok_or(short)?;
        let layout = LAYOUTS.iter().find(|(known, _)| *known == version);
        let (_, checksum_at) = layout.ok_or("its control file is of a PostgreSQL that this version does not know")?;
        let told = number(bytes, *checksum_at).ok_or(short)?;
        if crc32c::crc32c(&bytes[..*checksum_at]) != told {
            return Err("the checksum of its control file is wrong");
        }
        let size = number(bytes, SEGMENT_SIZE_AT).and_then(|size| SegmentSize::new(u64::from(size)));
        Ok(Self {
            system_identifier: SystemId(long(bytes, 0).ok_or(short)?),
            version,
            state: number(bytes, STATE_AT).ok_or(short)?,
            timeline: Timeline(number(bytes, TIMELINE_AT).ok_or(short)?),
            recovery_point: Lsn(long(bytes, RECOVERY_POINT_AT).ok_or(short)?),
            recovery_timeline: Timeline(number(bytes, RECOVERY_TIMELINE_AT).ok_or(short)?),
            segment_size: size.ok_or("the segment size in its control file")?,
        })
    }

    /// Whether the server that wrote it took its log from elsewhere: a standby, up or shut down, or a recovery from the
    /// archive (`DB_SHUTDOWNED_IN_RECOVERY`, `DB_IN_ARCHIVE_RECOVERY`).
    pub fn is_in_recovery(&self) -> bool {
        matches!(self.state, 2 | 5)
    }

    /// Whether the server that wrote it was shut down in good order.
    pub fn is_shut_down(&self) -> bool {
        matches!(self.state, 1 | 2)
    }
}

/// What a data directory is, as its control file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataDirectory {
    /// Its path.
    pub path: PathBuf,
    /// The major version, from `PG_VERSION`.
    pub major: u32,
    /// The cluster's identifier.
    pub system_identifier: SystemId,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// The timeline that its server writes itself; nothing of a standby and of a recovery, which take what others wrote.
    pub writes: Option<Timeline>,
}

/// A data directory that could not be understood: lower-case, fits after "failed to".
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    /// A file could not be read.
    #[error("read the data directory {path}")]
    File {
        /// The directory.
        path: String,
        /// Why.
        #[source]
        source: FileError,
    },
    /// A file is not what it should be.
    #[error("understand the data directory {path}: {what}")]
    Malformed {
        /// The directory.
        path: String,
        /// What is wrong.
        what: String,
    },
}

impl DataDirectory {
    /// Reads the data directory `path`.
    pub fn read(path: &Path) -> Result<Self, DataDirectoryError> {
        let named = || path.display().to_string();
        let broken = |source| DataDirectoryError::File { path: named(), source };
        let version = read_bounded(&path.join("PG_VERSION"), LIMIT).map_err(broken)?;
        let major = String::from_utf8_lossy(&version).trim().parse();
        let major =
            major.map_err(|_| DataDirectoryError::Malformed { path: named(), what: "PG_VERSION".to_owned() })?;
        let control = ControlFile::of(path)?.0;
        let ControlFile { system_identifier, segment_size, timeline, .. } = control;
        let writes = (!control.is_in_recovery()).then_some(timeline);
        Ok(Self { path: path.to_owned(), major, system_identifier, segment_size, writes })
    }

    /// Whether somebody else wrote `segment`: what its file's time says is when it was received, or copied.
    pub fn received(&self, segment: SegmentName) -> bool {
        self.writes.is_none_or(|own| segment.timeline() < own)
    }

    /// The data directory that the WAL file `path` lies in: the parent of its `pg_wal`; nothing when it lies elsewhere.
    pub fn of_wal_file(path: &Path) -> Option<PathBuf> {
        let folder = path.parent()?;
        (folder.file_name()? == "pg_wal").then(|| folder.parent().map(Path::to_path_buf))?
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().map(|bytes| u64::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wal_file_leads_to_its_data_directory() {
        let of = |path: &str| DataDirectory::of_wal_file(Path::new(path)).map(|path| path.display().to_string());
        assert_eq!(of("/data/pg_wal/000000010000000000000001").as_deref(), Some("/data"));
        assert_eq!(of("pg_wal/000000010000000000000001").as_deref(), Some(""));
        assert_eq!(of("/elsewhere/000000010000000000000001"), None);
    }

    #[test]
    fn a_control_file_that_is_torn_short_or_unknown_is_refused() {
        let mut bytes = vec![0; 8192];
        bytes[8..12].copy_from_slice(&1300_u32.to_ne_bytes());
        bytes[SEGMENT_SIZE_AT..SEGMENT_SIZE_AT + 4].copy_from_slice(&(16_u32 << 20).to_ne_bytes());
        let sum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&sum.to_ne_bytes());
        assert!(ControlFile::parse(&bytes).is_some());
        for at in [0, 8, 100, SEGMENT_SIZE_AT, 289] {
            let mut torn = bytes.clone();
            torn[at] ^= 1;
            assert_eq!(ControlFile::parse(&torn), None, "byte {at}");
        }
        assert!(ControlFile::parse(&bytes[..290]).is_none() && ControlFile::parse(&[]).is_none());
    }
}
