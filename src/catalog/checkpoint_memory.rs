//! What was read of checkpoints, kept in the state directory: a file for each month, each with a digest over itself.
//!
//! A cache. A file that is damaged, or of another version, is as one that is not there; what cannot be written is said, and
//! work goes on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::catalog::repository::Repository;
use crate::host::durable::{self, FileErrorKind};
use crate::model::audit::checkpoint::{MARK_BYTES, Mark};
use crate::model::digest::Digest;
use crate::model::failure::with_causes;

/// What each file begins with.
const HEADER: &[u8; 16] = b"dbagent marks 1\n";

/// What stands where nothing comes before.
const NOTHING: [u8; 32] = [0; 32];

/// Largest file read, in bytes: a checkpoint every ten seconds for a month.
const LIMIT: u64 = 32 << 20;

/// The memory of one chain in one repository; without a folder it remembers nothing.
pub(in crate::catalog) struct MarkMemory<'a> {
    folder: Option<PathBuf>,
    chain: &'a str,
}

impl<'a> MarkMemory<'a> {
    pub(in crate::catalog) fn of(repository: &Repository, chain: &'a str) -> Self {
        let folder =
            repository.memory.as_ref().map(|path| path.with_file_name(format!("{}.checkpoints", repository.name)));
        Self { folder, chain }
    }

    /// What is remembered without a gap from the first month on, oldest first: each file says what came before it.
    pub(in crate::catalog) fn recall(&self) -> Vec<Mark> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let mut marks: Vec<Mark> = Vec::new();
        for name in self.names() {
            match read(&folder.join(&name)) {
                Some((before, read)) if before == marks.last().map(|mark| mark.digest) => marks.extend(read),
                // A month before it is gone.
                _ => break,
            }
        }
        let in_order = marks.windows(2).all(|pair| pair[0].taken < pair[1].taken);
        if in_order { marks } else { Vec::new() }
    }

    fn names(&self) -> Vec<String> {
        let Some(folder) = &self.folder else { return Vec::new() };
        let mut names = durable::names_in(folder).unwrap_or_default();
        names.retain(|name| name.strip_prefix(self.chain).is_some_and(|rest| rest.starts_with("-2")));
        names.sort();
        names
    }

    fn name(&self, taken: DateTime<Utc>) -> String {
        format!("{}-{}", self.chain, taken.format("%Y-%m"))
    }

    /// Remembers `marks`, which are all there are; only the files of months that changed are written.
    pub(in crate::catalog) fn remember(&self, marks: &[Mark]) {
        let Some(folder) = &self.folder else { return };
        let mut months: BTreeMap<String, Vec<Mark>> = BTreeMap::new();
        marks.iter().for_each(|mark| months.entry(self.name(mark.taken)).or_default().push(*mark));
        let written = || {
            durable::private_directory(folder)?;
            let mut before = None;
            for (name, marks) in &months {
                let path = folder.join(name);
                if read(&path).is_none_or(|known| known != (before, marks.clone())) {
                    durable::replace(&path, &bytes(before, marks))?;
                }
                before = marks.last().map(|mark| mark.digest);
            }
            for name in self.names().iter().filter(|name| !months.contains_key(*name)) {
                durable::remove(&folder.join(name))?;
            }
            Ok::<_, durable::FileError>(())
        };
        if let Err(error) = written() {
            tracing::warn!(folder = %folder.display(), error = with_causes(&error), "cannot remember checkpoints");
        }
    }

    /// Forgets what was taken before an instant.
    pub(in crate::catalog) fn forget_before(&self, instant: DateTime<Utc>) {
        let mut marks = self.recall();
        marks.retain(|mark| mark.taken >= instant);
        self.remember(&marks);
    }
}

fn bytes(before: Option<Digest>, marks: &[Mark]) -> Vec<u8> {
    let mut bytes = HEADER.to_vec();
    bytes.extend_from_slice(before.as_ref().map_or(&NOTHING, |digest| digest.as_bytes()));
    marks.iter().for_each(|mark| bytes.extend_from_slice(&mark.to_bytes()));
    let digest = Digest::of(&bytes);
    bytes.extend_from_slice(digest.as_bytes());
    bytes
}

/// Digest of the mark before the first of the file, and those of the file.
fn read(path: &Path) -> Option<(Option<Digest>, Vec<Mark>)> {
    let bytes = match durable::read_bounded(path, LIMIT) {
        Ok(bytes) => bytes,
        Err(error) => {
            if error.kind != FileErrorKind::Missing {
                tracing::warn!(file = %path.display(), error = with_causes(&error), "cannot recall checkpoints");
            }
            return None;
        }
    };
    let (content, digest) = bytes.split_last_chunk::<32>()?;
    if Digest::of(content).as_bytes() != digest {
        tracing::warn!(file = %path.display(), "what was remembered of checkpoints is damaged, and read anew");
        return None;
    }
    let (before, records) = content.strip_prefix(HEADER.as_slice())?.split_first_chunk::<32>()?;
    let before = (*before != NOTHING).then(|| Digest::from(*before));
    let marks: Option<Vec<Mark>> =
        records.chunks(MARK_BYTES).map(|record| Mark::from_bytes(record.try_into().ok()?)).collect();
    Some((before, marks?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(number: i64) -> Mark {
        let taken = DateTime::from_timestamp_millis(1_790_000_000_000 + number * 86_400_000).unwrap();
        let hash = (number % 3 > 0).then(|| Digest::of(&number.to_le_bytes()));
        let kept = (number % 7 == 0).then_some(number - 1);
        Mark {
            taken,
            size: number,
            hash,
            incarnation: 2,
            kept,
            verified: number % 2 == 0,
            digest: Digest::of(&(-number).to_le_bytes()),
        }
    }

    #[test]
    fn what_is_remembered_over_months_comes_back_and_damage_costs_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let memory = MarkMemory { folder: Some(folder.path().join("local.checkpoints")), chain: "audit_logs" };
        assert_eq!(memory.recall(), []);
        let marks: Vec<Mark> = (0..100).map(mark).collect();
        memory.remember(&marks);
        assert_eq!(memory.recall(), marks);
        assert!(memory.names().len() >= 4, "{:?}", memory.names());
        memory.forget_before(marks[40].taken);
        assert_eq!(memory.recall(), marks[40..]);
        memory.remember(&marks);
        let path = folder.path().join("local.checkpoints").join(&memory.names()[1]);
        let mut bytes = durable::read_bounded(&path, LIMIT).unwrap();
        bytes[60] ^= 1;
        durable::replace(&path, &bytes).unwrap();
        let left = memory.recall();
        assert!(!left.is_empty() && left.len() < 40 && marks.starts_with(&left));
        memory.remember(&marks);
        durable::remove(&path).unwrap();
        assert_eq!(memory.recall(), left, "a month that is gone costs what comes after it");
        durable::remove(&path.with_file_name(&memory.names()[0])).unwrap();
        assert_eq!(memory.recall(), []);
    }
}
