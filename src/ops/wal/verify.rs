//! Reads every stored byte of the WAL back and compares it with its signed record. Needs no key.

use futures_util::stream::{self, StreamExt as _};

use super::sync::Doors;
use crate::catalog::Repository;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Severity};
use crate::model::wal::WalFile;
use crate::ops::Setting;
use crate::steps::wal::{Survey, read_back as read_file};

/// Files read side by side.
const AT_ONCE: usize = 2;

/// What a read-back found.
#[derive(Debug, Default)]
pub struct ReadBack {
    /// Files whose bytes are those of their record.
    pub files: u64,
    /// Bytes read.
    pub bytes: u64,
    /// A finding for each that is not.
    pub findings: Vec<Finding>,
}

/// Reads back everything that `found` says is stored, in the repositories of `doors`.
pub async fn read_back(found: &Survey, doors: &Doors, setting: &Setting) -> Result<ReadBack, Failure> {
    let mut result = ReadBack::default();
    for repository in &doors.repositories {
        setting.events.step(format!("reading the WAL in {}", repository.storage.place()));
        let files = files(found, &repository.name);
        let mut reading = stream::iter(files)
            .map(|file| async move { (file, check(repository, file, setting).await) })
            .buffer_unordered(AT_ONCE);
        while let Some((file, checked)) = reading.next().await {
            setting.require_going_on("go on reading WAL")?;
            match checked {
                Ok(bytes) => {
                    result.files += 1;
                    result.bytes += bytes;
                }
                Err(failure) => result.findings.push(damaged(repository, file, &failure)),
            }
        }
    }
    Ok(result)
}

fn damaged(repository: &Repository, file: WalFile, failure: &Failure) -> Finding {
    let name = &repository.name;
    let message = format!("{file} in repository {name} cannot be used: {}", failure.full_message());
    let remedy =
        "delete its record (….json) and bytes there; `dbagent wal sync` carries it over from another repository";
    Finding::new(Severity::Critical, "wal-damaged", message).remedy(remedy)
}

/// Every file that counts as stored in the repository `name`.
fn files(found: &Survey, name: &str) -> impl Iterator<Item = WalFile> {
    let held = found.timelines.iter().flat_map(|timeline| &timeline.held).filter(move |(other, _)| other == name);
    let files: Vec<WalFile> = held
        .flat_map(|(_, coverage)| {
            let segments = coverage.ranges.iter().flat_map(|range| range.segments(coverage.size));
            segments.map(WalFile::Segment).chain(coverage.others.iter().copied())
        })
        .collect();
    files.into_iter()
}

async fn check(repository: &Repository, file: WalFile, setting: &Setting) -> Result<u64, Failure> {
    let read = read_file(repository, file, None, setting.clock.now()).await?;
    let gone = || Failure::new(FailureKind::Integrity, format!("find the record of {file} again"));
    Ok(read.ok_or_else(gone)?.bytes)
}
