//! The files of a directory that are right already: what `--delta` does not fetch again.
//!
//! A file is right when size and digest are those of the list; everything that is not in the list is removed. Memory
//! grows with the number of files here, 16 bytes each.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::host::{OpenFile, files};
use crate::model::base::{BACKUP_LABEL, CONTROL_FILE, FileLine, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::ObjectRole;
use crate::ops::Setting;
use crate::ops::recover::directory::Place;
use crate::ops::recover::unpack::read_lines;
use crate::ops::recover::{Doors, Plan};
use crate::pipeline::fetch;
use crate::postgres::file_tree::RESTORE_INCOMPLETE;

const WINDOW_BYTES: usize = 1 << 20;

/// Files that are right.
#[derive(Debug, Default)]
pub(super) struct Kept {
    right: HashSet<u128>,
    /// By part, how many of its files are not right.
    wrong: BTreeMap<u32, u64>,
}

impl Kept {
    /// Compares the directory with the list, and removes what is not in it.
    pub(super) async fn find(plan: &Plan, place: &Place, doors: &Doors, setting: &Setting) -> Result<Self, Failure> {
        setting.events.step("comparing with what is there");
        let object = plan.artifact.manifest.object(ObjectRole::Files).ok_or_else(|| {
            Failure::new(FailureKind::Integrity, format!("use {}: it has no list of files", plan.artifact.name))
        })?;
        let download = plan.repository.storage.get(&object.key, object.version.as_deref(), None).await?;
        let source = fetch::open(download, object, doors.keys.as_ref()).await?;
        let root = place.root.clone();
        let comparing = tokio::task::spawn_blocking(move || {
            let (mut kept, mut listed) = (Self::default(), HashSet::new());
            let mut window = vec![0; WINDOW_BYTES];
            read_lines(source, |line| {
                let line: FileLine = serde_json::from_str(line)
                    .map_err(|error| Failure::new(FailureKind::Integrity, "read the list of files").because(error))?;
                listed.insert(name(&line.path));
                kept.compare(&root, &line, &mut window);
                Ok(())
            })?;
            remove_others(&root, Path::new(""), &listed).map_err(|error| {
                Failure::new(FailureKind::Failed, format!("clear {}", root.display())).because(error)
            })?;
            Ok(kept)
        });
        comparing.await.map_err(|error| Failure::new(FailureKind::Failed, "compare files").because(error))?
    }

    fn compare(&mut self, root: &Path, line: &FileLine, window: &mut [u8]) {
        let always = [CONTROL_FILE, BACKUP_LABEL, TABLESPACE_MAP].contains(&line.path.as_str());
        let right = match (line.size, &line.digest) {
            (Some(size), Some(digest)) if !always => {
                digest_of(&root.join(&line.path), size, window).is_some_and(|found| format!("{found:032x}") == *digest)
            }
            (None, _) => root.join(&line.path).is_dir(),
            _ => false,
        };
        match right {
            true => drop(self.right.insert(name(&line.path))),
            false => *self.wrong.entry(line.part).or_default() += 1,
        }
        self.wrong.entry(line.part).or_default();
    }

    /// Whether the file or directory `path` is right.
    pub(super) fn has(&self, path: &str) -> bool {
        self.right.contains(&name(path))
    }

    /// Whether everything of a part is right.
    pub(super) fn has_whole_part(&self, part: u32) -> bool {
        self.wrong.get(&part) == Some(&0)
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.right.len() as u64
    }
}

fn name(path: &str) -> u128 {
    xxh3_128(path.as_bytes())
}

/// The digest of a file of `size` bytes; nothing when it has another size or cannot be read.
fn digest_of(path: &Path, size: u64, window: &mut [u8]) -> Option<u128> {
    let mut file = OpenFile::open(path, false).ok().filter(|file| file.size() == size)?;
    let mut hasher = Xxh3::new();
    loop {
        match file.fill(window).ok()? {
            0 => return Some(hasher.digest128()),
            count => hasher.update(&window[..count]),
        }
    }
}

/// Removes every file below `at` that is not listed. Directories stay. Links are followed only where PostgreSQL's own files
/// lie behind them (its log, its tablespaces); what any other link leads to is nobody's business here.
fn remove_others(root: &Path, at: &Path, listed: &HashSet<u128>) -> io::Result<()> {
    for entry in std::fs::read_dir(root.join(at))? {
        let entry = entry?;
        let below = at.join(entry.file_name());
        let text = below.to_string_lossy();
        if text == RESTORE_INCOMPLETE {
            continue;
        }
        let kind = entry.file_type()?;
        let follow = text == "pg_wal" || at == Path::new("pg_tblspc");
        let leads_to_folder = kind.is_symlink() && std::fs::metadata(entry.path()).is_ok_and(|facts| facts.is_dir());
        match () {
            () if kind.is_dir() || leads_to_folder && follow => remove_others(root, &below, listed)?,
            () if leads_to_folder || listed.contains(&name(&text)) => {}
            () => files::remove_if_there(&entry.path())?,
        }
    }
    Ok(())
}
