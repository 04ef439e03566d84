//! What a base backup is: where it begins and ends in the log, what a copy of it needs to start, what was wrong with it.
//!
//! Plain values for the manifest, the lines of the list of files, and reading PostgreSQL's own backup label.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::lsn::{Lsn, Timeline};
use crate::model::wal::{SegmentName, SegmentRange, SegmentSize};

/// The name of PostgreSQL's file that tells recovery where to begin.
pub const BACKUP_LABEL: &str = "backup_label";
/// The name of PostgreSQL's file that tells recovery where the tablespaces are.
pub const TABLESPACE_MAP: &str = "tablespace_map";
/// The control file, which is read last.
pub const CONTROL_FILE: &str = "global/pg_control";

/// How much of the cluster a base backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// All of it.
    Full,
    /// Of relations' main forks the pages that changed since its parent; all of everything else.
    Incremental,
}

/// What a base backup's manifest says besides what every manifest says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRecord {
    /// How much of the cluster it holds.
    pub kind: BaseKind,
    /// The timeline it was begun and ended on.
    pub timeline: Timeline,
    /// Where recovery begins to read the log: the redo position of its checkpoint.
    pub start: Lsn,
    /// Where a copy is consistent.
    pub stop: Lsn,
    /// When it ended, by the server's clock: the earliest instant that it can be restored to.
    pub stopped: DateTime<Utc>,
    /// Size of a segment of the log, in bytes.
    pub segment_bytes: u64,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
    /// The server's major version.
    pub major: u32,
    /// `backup_label`, byte for byte.
    pub backup_label: String,
    /// `tablespace_map`, byte for byte; empty where there are no tablespaces.
    pub tablespace_map: String,
    /// The tablespaces besides the two that every cluster has.
    pub tablespaces: Vec<Tablespace>,
    /// Settings that a copy must not have lower, and others that it needs, by name.
    pub settings: BTreeMap<String, String>,
    /// Files and directories in it.
    pub files: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// In an incremental one, the position from which changes are in it: where its parent begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_since: Option<Lsn>,
    /// Whether the checksums of pages were verified while they were read.
    pub pages_verified: bool,
    /// Pages whose checksums were wrong and that the log does not repair.
    #[serde(default, skip_serializing_if = "DamagedPages::is_none")]
    pub damaged: DamagedPages,
}

impl BaseRecord {
    /// The segment size.
    pub fn segment_size(&self) -> Option<SegmentSize> {
        SegmentSize::new(self.segment_bytes)
    }

    /// The segments without which a copy can never be consistent: from the start to the one that holds the last byte
    /// before the stop.
    pub fn segments(&self) -> Option<SegmentRange> {
        let size = self.segment_size()?;
        let last = Lsn(self.stop.0.checked_sub(1)?.max(self.start.0));
        Some(SegmentRange {
            first: SegmentName::at(self.timeline, self.start, size),
            last: SegmentName::at(self.timeline, last, size),
        })
    }
}

/// A tablespace of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Tablespace {
    /// Its oid: its name below `pg_tblspc`.
    pub oid: u32,
    /// Where it was.
    pub path: String,
}

/// Pages that are damaged: how many, and the first of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPages {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<DamagedPage>,
}

/// Where a page is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DamagedPage {
    /// Its file, below the data directory.
    pub path: String,
    /// Its number in the relation.
    pub block: u32,
}

impl DamagedPages {
    /// Most that are named.
    const NAMED: usize = 100;

    /// Whether there are none.
    pub fn is_none(&self) -> bool {
        self.count == 0
    }

    /// Takes one more.
    pub fn add(&mut self, page: DamagedPage) {
        self.count += 1;
        if self.first.len() < Self::NAMED {
            self.first.push(page);
        }
    }

    /// Takes all of `other`.
    pub fn merge(&mut self, other: Self) {
        self.count += other.count;
        let room = Self::NAMED.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
    }
}

/// One line of the list of files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileLine {
    /// Path below the data directory, as in the part's archive.
    pub path: String,
    /// Number of the part that holds it.
    pub part: u32,
    /// Size in bytes; absent for a directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// XXH3 of 128 bits over the bytes stored, in hexadecimal: tells whether a file at hand is this one, no proof of
    /// origin (the stored digests are).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// How many pages of it are in an incremental backup, where it is not there whole: the others are those of the parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<u32>,
    /// Last change, seconds since 1970.
    pub modified: i64,
    /// Mode bits.
    pub mode: u32,
}

/// What `backup_label` says (PostgreSQL, `access/transam/xlog.c`, `build_backup_content` and its forerunners).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where recovery begins to read.
    pub start: Lsn,
    /// The timeline of the start.
    pub timeline: Timeline,
    /// Whether it was taken from a standby.
    pub from_standby: bool,
}

impl BackupLabel {
    /// Reads the file's text; nothing when it is no backup label.
    pub fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let start = value("START WAL LOCATION:")?.split_whitespace().next()?.parse().ok()?;
        let timeline = Timeline(value("START TIMELINE:")?.parse().ok()?);
        Some(Self { start, timeline, from_standby: value("BACKUP FROM:") == Some("standby") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: &str = "START WAL LOCATION: 0/9000028 (file 000000010000000000000009)\nCHECKPOINT LOCATION: 0/9000060\n\
        BACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-03-01 10:00:00 UTC\nLABEL: x\nSTART TIMELINE: 1\n";

    #[test]
    fn a_label_says_where_recovery_begins() {
        let label = BackupLabel::parse(LABEL).unwrap();
        assert_eq!(label, BackupLabel { start: Lsn(0x900_0028), timeline: Timeline(1), from_standby: false });
        assert!(BackupLabel::parse(&LABEL.replace("primary", "standby")).unwrap().from_standby);
        for text in ["", "START WAL LOCATION: x\nSTART TIMELINE: 1\n", "START WAL LOCATION: 0/1 (file 0)\n"] {
            assert_eq!(BackupLabel::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn f65_the_last_segment_holds_the_last_byte_before_the_stop() {
        let record = |start, stop, megabytes: u64| BaseRecord {
            kind: BaseKind::Full,
            timeline: Timeline(3),
            start: Lsn(start),
            stop: Lsn(stop),
            stopped: DateTime::UNIX_EPOCH,
            segment_bytes: megabytes << 20,
            from_standby: false,
            major: 15,
            backup_label: String::new(),
            tablespace_map: String::new(),
            tablespaces: Vec::new(),
            settings: BTreeMap::new(),
            files: 0,
            bytes: 0,
            changed_since: None,
            pages_verified: true,
            damaged: DamagedPages::default(),
        };
        let names = |record: BaseRecord| {
            let range = record.segments().unwrap();
            (range.first.to_string(), range.last.to_string())
        };
        let (first, last) = names(record(0x900_0028, 0x900_0100, 16));
        assert_eq!((first.as_str(), last.as_str()), ("000000030000000000000009", "000000030000000000000009"));
        let (_, last) = names(record(0x900_0028, 0xA00_0000, 16));
        assert_eq!(last, "000000030000000000000009", "a stop at a boundary needs nothing of the next segment");
        let (first, last) = names(record(0x900_0028, 0xA00_0001, 1));
        assert_eq!((first.as_str(), last.as_str()), ("000000030000000000000090", "0000000300000000000000A0"));
        assert_eq!(record(1, 2, 3).segments(), None);
    }
}
