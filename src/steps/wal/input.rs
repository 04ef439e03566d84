//! A WAL file that PostgreSQL hands over: opened, and checked to be what its name says, before anything is stored.

use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::host::durable::read_bounded;
use crate::host::{FileIdentity, FileSource};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::Timeline;
use crate::model::timeline::{TimelineHistory, TimelineSwitch};
use crate::model::wal::{SegmentName, WalFile};
use crate::postgres::control::DataDirectory;
use crate::postgres::wal_commits::ended_at;
use crate::postgres::wal_page;
use crate::steps::wal::records::each_record;

/// Largest history or backup note, in bytes: thousands of timelines.
const NOTE_LIMIT: u64 = 1 << 20;

/// A checked WAL file.
#[derive(Clone, Debug)]
pub struct WalInput {
    /// What it is.
    pub file: WalFile,
    /// Where it is.
    pub path: PathBuf,
    /// Which file exactly was checked.
    pub identity: FileIdentity,
    /// The data directory it is of.
    pub directory: DataDirectory,
    /// Of a history: what it says.
    pub ancestors: Vec<TimelineSwitch>,
    /// When the server last wrote to it; of a segment that it received, the newest end of a transaction in it: when it was
    /// received says nothing of when what follows was acknowledged.
    pub written: Option<DateTime<Utc>>,
    /// Whether its server received it, and did not write it itself.
    pub received: bool,
}

impl WalInput {
    /// Opens and checks the file `path` of the cluster in the data directory above its `pg_wal`, or, for a file elsewhere,
    /// in `data_directory`.
    pub fn check(path: &Path, data_directory: Option<&Path>) -> Result<Self, Failure> {
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let file: WalFile = name.parse().map_err(|error| {
            Failure::new(FailureKind::Usage, format!("archive {}", path.display()))
                .because(error)
                .hint("Give the file as PostgreSQL does: archive_command = 'dbagent wal push \"%p\"'.")
        })?;
        let directory = data_directory_of(path, data_directory)?;
        let source = open(path)?;
        let (path, identity) = (path.to_owned(), source.identity());
        let written = identity.modified();
        let mut input = Self { file, path, identity, directory, ancestors: Vec::new(), written, received: false };
        match file {
            WalFile::Segment(segment) | WalFile::Partial(segment) => {
                input.check_segment(segment, &source)?;
                input.received = input.directory.received(segment);
                if input.received {
                    input.written = input.newest_end(segment)?;
                }
            }
            WalFile::History(timeline) => input.ancestors = input.read_history(timeline)?,
            WalFile::Backup { .. } => input.check_backup_note()?,
        }
        Ok(input)
    }

    /// Opens it to be read; refused when it is no longer the file that was checked.
    pub fn open(&self) -> Result<FileSource, Failure> {
        let source = open(&self.path)?;
        match source.identity() == self.identity {
            true => Ok(source),
            false => {
                let message = format!("archive {}: it was changed meanwhile", self.path.display());
                Err(Failure::new(FailureKind::Failed, message).hint("PostgreSQL tries again by itself."))
            }
        }
    }

    /// When the last transaction ended of those that end in it, by the clock of who wrote it.
    fn newest_end(&self, segment: SegmentName) -> Result<Option<DateTime<Utc>>, Failure> {
        let mut newest = None;
        each_record(segment, &self.path, &self.directory, &mut |record| newest = newest.max(ended_at(&record)))
            .map_err(|error| {
                Failure::new(FailureKind::Failed, format!("read {}", self.path.display())).because(error)
            })?;
        Ok(newest)
    }

    fn check_segment(&self, segment: SegmentName, source: &FileSource) -> Result<(), Failure> {
        let first = source.first(wal_page::HEADER_BYTES).map_err(|error| unreadable(&self.path, error))?;
        let history = || self.neighbour_history(segment.timeline());
        let checked = wal_page::check(segment, &first, source.size(), &self.directory, history);
        checked.map_err(|error| self.refused(error))
    }

    /// The history of `timeline` that lies beside this file.
    fn neighbour_history(&self, timeline: Timeline) -> Option<TimelineHistory> {
        let path = self.path.with_file_name(WalFile::History(timeline).to_string());
        let text = read_bounded(&path, NOTE_LIMIT).ok()?;
        TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)).ok()
    }

    fn read_history(&self, timeline: Timeline) -> Result<Vec<TimelineSwitch>, Failure> {
        let text = read_bounded(&self.path, NOTE_LIMIT).map_err(|error| unreadable(&self.path, error))?;
        let history = TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text));
        history.map(|history| history.ancestors().to_vec()).map_err(|error| self.refused(error))
    }

    fn check_backup_note(&self) -> Result<(), Failure> {
        let text = read_bounded(&self.path, NOTE_LIMIT).map_err(|error| unreadable(&self.path, error))?;
        match text.starts_with(b"START WAL LOCATION: ") {
            true => Ok(()),
            false => Err(self.refused("it does not begin as a backup's note does")),
        }
    }

    fn refused(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
        Failure::new(FailureKind::RefusedForSafety, format!("archive {}", self.path.display())).because(error).hint(
            "It is damaged or of another cluster, and is not stored. Look at the file; PostgreSQL keeps it until it is archived.",
        )
    }
}

fn data_directory_of(path: &Path, configured: Option<&Path>) -> Result<DataDirectory, Failure> {
    let near =
        DataDirectory::of_wal_file(path).map(|above| if above.as_os_str().is_empty() { ".".into() } else { above });
    let usable = |directory: &PathBuf| directory.join("PG_VERSION").exists();
    let directory = near.filter(usable).or_else(|| configured.map(Path::to_path_buf)).ok_or_else(|| {
        let message = format!("find the data directory that {} belongs to", path.display());
        Failure::new(FailureKind::Usage, message).hint("Set postgres.data_directory in dbagent.toml.")
    })?;
    DataDirectory::read(&directory).map_err(|error| {
        Failure::new(FailureKind::Failed, format!("check {}", path.display()))
            .because(error)
            .hint("Run it as a user that may read the data directory; postgres.data_directory names it.")
    })
}

fn open(path: &Path) -> Result<FileSource, Failure> {
    FileSource::open(path).map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Failure {
    Failure::new(FailureKind::Failed, format!("read {}", path.display())).because(error)
}
