//! The files of a `pg_wal`: which of them wait to be archived, and which segments are there.

use std::io;
use std::path::Path;

use crate::model::wal::{SegmentName, WalFile};

const STATUS: &str = "archive_status";

/// The files in the folder `pg_wal` that wait to be archived, in the archiver's order: histories first, then by name
/// (PostgreSQL, `pgarch.c`).
pub fn ready(pg_wal: &Path) -> io::Result<Vec<WalFile>> {
    let mut files: Vec<WalFile> =
        names(&pg_wal.join(STATUS))?.iter().filter_map(|name| name.strip_suffix(".ready")?.parse().ok()).collect();
    files.sort_by_key(|file| (!matches!(file, WalFile::History(_)), file.to_string()));
    Ok(files)
}

/// Whether `file` waits to be archived.
pub fn is_ready(pg_wal: &Path, file: WalFile) -> bool {
    pg_wal.join(STATUS).join(format!("{file}.ready")).exists()
}

/// The segments in the folder `pg_wal` that PostgreSQL has finished: those that wait to be archived or were. What else
/// bears a segment's name is being written, or lies ready to be written.
pub fn finished(pg_wal: &Path) -> io::Result<Vec<SegmentName>> {
    let marked = |name: &String| {
        let file = name.strip_suffix(".ready").or_else(|| name.strip_suffix(".done"))?.parse().ok()?;
        if let WalFile::Segment(segment) = file { Some(segment) } else { None }
    };
    let mut segments: Vec<SegmentName> = names(&pg_wal.join(STATUS))?.iter().filter_map(marked).collect();
    segments.retain(|segment| pg_wal.join(segment.to_string()).exists());
    segments.sort_unstable();
    Ok(segments)
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = folder.read_dir()?.map(|entry| entry.map(|entry| entry.file_name().into_string().ok()));
    entries.filter_map(Result::transpose).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_comes_in_the_archivers_order() {
        let folder = tempfile::tempdir().unwrap();
        let pg_wal = folder.path();
        let touch = |path: std::path::PathBuf| crate::host::durable::replace(&path, b"").unwrap();
        std::fs::create_dir(pg_wal.join(STATUS)).unwrap();
        let names = [
            "000000010000000000000003",
            "000000010000000000000002",
            "00000002.history",
            "000000010000000000000001.00000028.backup",
        ];
        for name in names {
            touch(pg_wal.join(STATUS).join(format!("{name}.ready")));
            touch(pg_wal.join(name));
        }
        touch(pg_wal.join(STATUS).join("000000010000000000000001.done"));
        touch(pg_wal.join(STATUS).join("readme.ready"));
        let found: Vec<_> = ready(pg_wal).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "00000002.history",
                "000000010000000000000001.00000028.backup",
                "000000010000000000000002",
                "000000010000000000000003"
            ]
        );
        assert!(
            is_ready(pg_wal, found[0].parse().unwrap())
                && !is_ready(pg_wal, "000000010000000000000001".parse().unwrap())
        );
        let segments: Vec<_> = finished(pg_wal).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(segments, ["000000010000000000000002", "000000010000000000000003"], "01 is gone");
        assert!(ready(&pg_wal.join("nowhere")).is_err());
    }
}
