//! pg_basebackup: its command line, and what its stream says of the backup.
//!
//! One tar archive on stdout: `backup_label` first, the files, the control file, then `backup_manifest`, which is the
//! only thing that says where the backup ends (PostgreSQL manual, "Backup Manifest Format"). The log is not in it; it is
//! archived. Pages are verified by us: the server's own check would fail the whole backup for one page.

use std::ffi::OsString;
use std::path::Path;

use serde::Deserialize;

use super::environment::ChildEnvironment;
use crate::host::ChildSpec;
use crate::model::lsn::{Lsn, Timeline};

/// The name of the member that describes all others.
pub const MANIFEST: &str = "backup_manifest";

/// The command that writes a base backup of the whole cluster to stdout. The cluster must not have tablespaces: an
/// archive of each would be another stream. Whoever logs in needs REPLICATION; a role is not taken on.
pub fn base_backup(program: &Path, environment: &ChildEnvironment, label: &str, fast: bool) -> ChildSpec {
    let mut arguments: Vec<OsString> =
        ["--pgdata=-", "--format=tar", "--wal-method=none", "--no-password"].map(OsString::from).into();
    arguments.extend(["--no-verify-checksums", "--manifest-checksums=NONE"].map(OsString::from));
    arguments.push(if fast { "--checkpoint=fast" } else { "--checkpoint=spread" }.into());
    arguments.push(format!("--label={label}").into());
    let mut spec = ChildSpec::new(program, arguments);
    spec.environment = environment.variables().clone();
    spec.label = "pg_basebackup".to_owned();
    spec
}

/// A stretch of the log that a backup needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// Its timeline.
    pub timeline: Timeline,
    /// Where it begins.
    pub start: Lsn,
    /// Where it ends.
    pub end: Lsn,
}

/// The end of a backup manifest: whatever its length, what stands behind the list of files is short.
#[derive(Debug, Default)]
pub struct ManifestTail(Vec<u8>);

#[derive(Deserialize)]
struct Range {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl ManifestTail {
    /// More than what stands behind the list of files ever has.
    const BYTES: usize = 64 << 10;
    const RANGES: &str = "\"WAL-Ranges\":";

    /// Takes more of the manifest.
    pub fn take(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
        let over = self.0.len().saturating_sub(Self::BYTES);
        self.0.drain(..over);
    }

    /// The stretches of the log; nothing where it says none.
    pub fn ranges(&self) -> Option<Vec<WalRange>> {
        let text = String::from_utf8_lossy(&self.0);
        let list = &text[text.rfind(Self::RANGES)? + Self::RANGES.len()..];
        let mut ranges = serde_json::Deserializer::from_str(list).into_iter::<Vec<Range>>();
        let ranges = ranges.next()?.ok()?;
        let read = |range: Range| {
            let (start, end) = (range.start.parse().ok()?, range.end.parse().ok()?);
            Some(WalRange { timeline: Timeline(range.timeline), start, end })
        };
        ranges.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_manifest_says_which_log_is_needed() {
        let mut tail = ManifestTail::default();
        assert_eq!(tail.ranges(), None);
        tail.take(b"{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n");
        for file in 0..5000 {
            tail.take(
                format!("{{ \"Path\": \"base/5/{file}\", \"Size\": 8192, \"Last-Modified\": \"x\" }},\n").as_bytes(),
            );
        }
        tail.take(b"],\n\"WAL-Ranges\": [\n{ \"Timeline\": 3, \"Start-LSN\": \"0/9000028\", \"End-LSN\": \"0/9000138\" }\n],\n");
        tail.take(b"\"Manifest-Checksum\": \"12ab\"}\n");
        let range = WalRange { timeline: Timeline(3), start: Lsn(0x900_0028), end: Lsn(0x900_0138) };
        assert_eq!(tail.ranges(), Some(vec![range]));
        assert!(tail.0.len() <= ManifestTail::BYTES);
    }
}
