//! What an unfinished base backup has stored: notes in the state directory, for the next run of its job to go on from.
//!
//! A folder for each job; in it the head (which backup, on what terms) and a note for each part. A note is believed in
//! one thing only: which stored bytes came of which content. Whether the files still have that content is found out by
//! reading them. The notes go before the backup is committed; losing them loses nothing but the work.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::host::durable::{self, FileError, FileErrorKind};
use crate::model::base::{BaseKind, FileLine};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::lsn::SystemId;
use crate::model::manifest::{Encoding, ObjectRecord};

const HEAD: &str = "head";
const NOTE: &str = "part-";

/// Largest note, in bytes: a part has at most 4096 files, a path at most 4 KiB.
const LIMIT: u64 = 64 << 20;

/// The notes of one job. Where there is no place for them nothing is noted, and nothing is gone on with.
#[derive(Debug)]
pub(super) struct Journal(Option<PathBuf>);

/// What must be the same for another run to go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Terms {
    pub(super) kind: BaseKind,
    pub(super) system: Option<SystemId>,
    pub(super) encoding: Vec<Encoding>,
    pub(super) recipients: Vec<String>,
    /// The repositories: their places, by name.
    pub(super) places: BTreeMap<String, String>,
}

/// Which backup the notes are of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    /// The key that its manifest will have.
    pub(super) manifest: ObjectKey,
    /// When it was begun, by the first of its runs.
    pub(super) began: DateTime<Utc>,
    pub(super) terms: Terms,
}

/// A part that is stored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Note {
    pub(super) number: u32,
    /// What is in it, in order.
    pub(super) lines: Vec<FileLine>,
    /// What is stored of it, by repository.
    pub(super) held: BTreeMap<String, ObjectRecord>,
}

impl Journal {
    /// The notes of `job` below `folder`.
    pub(super) fn of(folder: Option<&Path>, job: &str) -> Self {
        Self(folder.map(|folder| folder.join(job)))
    }

    /// Which backup they are of; nothing where there are none, or none that can be read.
    pub(super) fn head(&self) -> Option<Head> {
        read(&self.0.as_ref()?.join(HEAD))
    }

    /// Begins the notes of a new backup; those of another go.
    pub(super) fn begin(&self, head: &Head) {
        let Some(folder) = &self.0 else { return };
        let begun = self.clear().and_then(|()| durable::private_directory(folder));
        told(begun.and_then(|()| write(&folder.join(HEAD), head)));
    }

    /// Notes a part that is stored and read back.
    pub(super) fn note(&self, note: &Note) {
        if let Some(folder) = self.0.as_ref().filter(|folder| folder.join(HEAD).exists()) {
            told(write(&folder.join(format!("{NOTE}{:05}", note.number)), note));
        }
    }

    /// The numbers of the parts that are noted.
    pub(super) fn numbers(&self) -> BTreeSet<u32> {
        let names = self.0.as_ref().and_then(|folder| durable::names_in(folder).ok()).unwrap_or_default();
        names.iter().filter_map(|name| name.strip_prefix(NOTE)?.parse().ok()).collect()
    }

    /// The note of part `number`, where it can be read.
    pub(super) fn part(&self, number: u32) -> Option<Note> {
        let note: Note = read(&self.0.as_ref()?.join(format!("{NOTE}{number:05}")))?;
        (note.number == number).then_some(note)
    }

    /// Takes the note of part `number` away.
    pub(super) fn forget(&self, number: u32) {
        if let Some(folder) = &self.0 {
            told(remove(&folder.join(format!("{NOTE}{number:05}"))));
        }
    }

    /// Takes all notes away: from here on nobody may go on with the backup.
    pub(super) fn end(&self) -> Result<(), Failure> {
        self.clear().map_err(|error| {
            Failure::new(FailureKind::Failed, "take away the notes of the base backup")
                .because(error)
                .hint("Look at the state directory: who owns it, and what room is left.")
        })
    }

    fn clear(&self) -> Result<(), FileError> {
        let Some(folder) = &self.0 else { return Ok(()) };
        remove(&folder.join(HEAD))?;
        for number in self.numbers() {
            remove(&folder.join(format!("{NOTE}{number:05}")))?;
        }
        Ok(())
    }
}

/// A journal that cannot be written costs a later run its head start, and nothing else.
fn told(result: Result<(), FileError>) {
    if let Err(error) = result {
        tracing::warn!(%error, "an interruption of this base backup would begin it anew");
    }
}

fn remove(path: &Path) -> Result<(), FileError> {
    match durable::remove(path) {
        Err(error) if error.kind == FileErrorKind::Missing => Ok(()),
        done => done,
    }
}

/// The digest of what follows, a line, and the JSON.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<(), FileError> {
    let json = serde_json::to_vec(value).unwrap_or_default();
    let mut bytes = format!("{}\n", Digest::of(&json)).into_bytes();
    bytes.extend(json);
    durable::replace(path, &bytes)
}

fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let bytes = durable::read_bounded(path, LIMIT).ok()?;
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (digest, json) = (&bytes[..end], &bytes[end + 1..]);
    let is_whole = Digest::of(json).to_string().as_bytes() == digest;
    if is_whole { serde_json::from_slice(json).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(name: &str) -> Head {
        let terms = Terms {
            kind: BaseKind::Full,
            system: Some(SystemId(7)),
            encoding: vec![Encoding::Tar, Encoding::Zstd],
            recipients: Vec::new(),
            places: BTreeMap::from([("local".to_owned(), "file:///x".to_owned())]),
        };
        Head { manifest: name.parse().unwrap(), began: DateTime::UNIX_EPOCH, terms }
    }

    fn note(number: u32) -> Note {
        Note { number, lines: Vec::new(), held: BTreeMap::new() }
    }

    #[test]
    fn notes_are_those_of_one_backup_and_a_damaged_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::of(Some(&folder.path().join("base")), "full");
        journal.note(&note(1));
        assert!(journal.head().is_none() && journal.numbers().is_empty(), "nothing is noted of no backup");
        journal.begin(&head("base/1/backup.manifest.json"));
        (1..=3).for_each(|number| journal.note(&note(number)));
        assert_eq!(journal.head().unwrap().terms, head("x").terms);
        let damaged = folder.path().join("base/full/part-00002");
        let mut bytes = durable::read_bounded(&damaged, LIMIT).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        durable::replace(&damaged, &bytes).unwrap();
        std::fs::copy(folder.path().join("base/full/part-00001"), folder.path().join("base/full/part-00003")).unwrap();
        let whole: Vec<u32> = journal.numbers().into_iter().filter(|number| journal.part(*number).is_some()).collect();
        assert_eq!(whole, [1]);
        journal.begin(&head("base/2/backup.manifest.json"));
        assert_eq!(journal.numbers().len(), 0);
        journal.note(&note(9));
        journal.end().unwrap();
        assert!(journal.head().is_none() && journal.numbers().is_empty());
    }
}
