//! Where each file of the copy comes from: which backup of the chain has it whole, which have pages of it, and what
//! of it is right already, which `--delta` does not fetch again.
//!
//! A file is right when size and digest are those of the list that has it whole and no later backup has pages of it;
//! everything that is not in the newest list is removed. Memory grows with the number of files, about 40 bytes each.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use crate::catalog::Artifact;
use crate::host::{OpenFile, Source, files};
use crate::model::base::{BACKUP_LABEL, CONTROL_FILE, FileLine, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::ObjectRole;
use crate::ops::Setting;
use crate::ops::recover::directory::Place;
use crate::ops::recover::unpack::read_lines;
use crate::ops::recover::{Doors, Plan};
use crate::pipeline::fetch;
use crate::postgres::file_tree::RESTORE_INCOMPLETE;
use crate::postgres::relation_file::RelationFile;

const WINDOW_BYTES: usize = 1 << 20;

/// What is taken from which backup; backups of a chain are numbered from 0, the full one.
#[derive(Debug)]
pub(super) enum Layout {
    /// All of the only backup.
    Everything,
    /// What the lists of files say.
    Chosen(Chosen),
}

/// What the lists of files say.
#[derive(Debug, Default)]
pub(super) struct Chosen {
    files: HashMap<u128, Origin>,
    right: HashSet<u128>,
    /// By backup and part, how many members are to be unpacked.
    wanted: BTreeMap<(usize, u32), u64>,
}

/// Where one file comes from.
#[derive(Clone, Copy, Debug)]
struct Origin {
    /// The oldest backup that is read for it, as far as it is known.
    first: usize,
    /// Whether that backup has it whole.
    whole: bool,
    /// Whether any later one has pages of it, or another size.
    changed: bool,
    /// Whether it may begin as nothing but zeros, which the log fills: what a relation grows by, a new segment at a time,
    /// and a file of which only the newest backup knows and of which it has no pages. Between the start of its parent and
    /// its own nothing happened to such a file, and the parent has it not: it was made after the start.
    may_begin_empty: bool,
    size: Option<u64>,
}

impl Layout {
    /// Reads the lists of files of the chain, the newest first. Where `delta` says so, compares with what is there, and
    /// removes what is not in the newest list.
    pub(super) async fn read(
        plan: &Plan,
        place: &Place,
        doors: &Doors,
        setting: &Setting,
        delta: bool,
    ) -> Result<Self, Failure> {
        if plan.chain.len() == 1 && !delta {
            return Ok(Self::Everything);
        }
        setting.events.step(if delta { "comparing with what is there" } else { "reading what the chain holds" });
        let mut chosen = Chosen::default();
        for (at, artifact) in plan.chain.iter().enumerate().rev() {
            let list = open_list(plan, artifact, doors).await?;
            let root = delta.then(|| place.root.clone());
            let newest = at + 1 == plan.chain.len();
            let reading = tokio::task::spawn_blocking(move || {
                let mut window = vec![0; WINDOW_BYTES];
                read_lines(list, |line| {
                    let line: FileLine = serde_json::from_str(line).map_err(|error| {
                        Failure::new(FailureKind::Integrity, "read the list of files").because(error)
                    })?;
                    chosen.take(at, newest, &line, root.as_deref(), &mut window);
                    Ok(())
                })?;
                Ok::<_, Failure>(chosen)
            });
            chosen = reading
                .await
                .map_err(|error| Failure::new(FailureKind::Failed, "read the list of files").because(error))??;
        }
        chosen.require_whole(plan)?;
        if delta {
            chosen = clear(chosen, place).await?;
        }
        Ok(Self::Chosen(chosen))
    }

    /// Whether backup number `at` has something of the file or directory `path` that the copy needs.
    pub(super) fn wants(&self, at: usize, path: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Chosen(chosen) => {
                let name = name(path);
                let origin = chosen.files.get(&name);
                origin.is_some_and(|origin| at >= origin.first) && !chosen.right.contains(&name)
            }
        }
    }

    /// Whether the file `path` begins with backup number `at`, whatever of it that holds.
    pub(super) fn begins(&self, at: usize, path: &str) -> bool {
        match self {
            Self::Everything => true,
            Self::Chosen(chosen) => chosen.files.get(&name(path)).is_some_and(|origin| origin.first == at),
        }
    }

    /// Whether anything of a part is needed.
    pub(super) fn wants_part(&self, at: usize, part: u32) -> bool {
        match self {
            Self::Everything => true,
            Self::Chosen(chosen) => chosen.wanted.get(&(at, part)).is_some_and(|count| *count > 0),
        }
    }

    /// How many files and directories were right.
    pub(super) fn kept(&self) -> u64 {
        match self {
            Self::Everything => 0,
            Self::Chosen(chosen) => chosen.right.len() as u64,
        }
    }
}

impl Chosen {
    /// Takes a line of the list of backup number `at`; later backups were read before.
    fn take(&mut self, at: usize, newest: bool, line: &FileLine, delta: Option<&Path>, window: &mut [u8]) {
        let name = name(&line.path);
        let whole = line.pages.is_none();
        let file = line.path.rsplit('/').next().and_then(RelationFile::of_name);
        let is_growth = file.is_some_and(|file| file.segment > 0);
        let origin = match self.files.get(&name).copied() {
            None if newest => Origin {
                first: at,
                whole,
                changed: line.pages.is_some_and(|pages| pages > 0),
                may_begin_empty: is_growth || line.pages == Some(0),
                size: line.size,
            },
            // What the one after it lacks, or has whole, is another file.
            Some(later) if !later.whole && later.first == at + 1 => {
                let changed = later.changed || line.pages.is_some_and(|pages| pages > 0) || line.size != later.size;
                Origin { first: at, whole, changed, may_begin_empty: is_growth, ..later }
            }
            _ => return,
        };
        self.files.insert(name, origin);
        let right = whole && !origin.changed && delta.is_some_and(|root| is_right(root, line, window));
        match right {
            true => drop(self.right.insert(name)),
            false => *self.wanted.entry((at, line.part)).or_default() += 1,
        }
    }

    /// Errors when the chain has pages of a file and no backup of it has the file.
    fn require_whole(&self, plan: &Plan) -> Result<(), Failure> {
        let lost = self.files.values().filter(|origin| !origin.whole && !origin.may_begin_empty).count();
        if lost == 0 {
            return Ok(());
        }
        let message =
            format!("follow the chain of {}: {lost} files are whole in none of its backups", plan.artifact.name);
        Err(Failure::new(FailureKind::Integrity, message).hint(
            "Nothing was written. Restore from another backup with --backup, and report this: it must not happen.",
        ))
    }
}

async fn open_list(plan: &Plan, artifact: &Artifact, doors: &Doors) -> Result<Box<dyn Source>, Failure> {
    let object = artifact.manifest.object(ObjectRole::Files).ok_or_else(|| {
        Failure::new(FailureKind::Integrity, format!("use {}: it has no list of files", artifact.name))
    })?;
    let download = plan.repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    Ok(fetch::open(download, object, doors.keys.as_ref()).await?)
}

/// Removes what is not listed.
async fn clear(chosen: Chosen, place: &Place) -> Result<Chosen, Failure> {
    let root = place.root.clone();
    let clearing = tokio::task::spawn_blocking(move || {
        let cleared = remove_others(&root, Path::new(""), &chosen.files);
        cleared
            .map(|()| chosen)
            .map_err(|error| Failure::new(FailureKind::Failed, format!("clear {}", root.display())).because(error))
    });
    clearing.await.map_err(|error| Failure::new(FailureKind::Failed, "compare files").because(error))?
}

/// Whether what is below `root` is what `line` says, which has all of it.
fn is_right(root: &Path, line: &FileLine, window: &mut [u8]) -> bool {
    let always = [CONTROL_FILE, BACKUP_LABEL, TABLESPACE_MAP].contains(&line.path.as_str());
    match (line.size, &line.digest) {
        (Some(size), Some(digest)) if !always => {
            digest_of(&root.join(&line.path), size, window).is_some_and(|found| format!("{found:032x}") == *digest)
        }
        (None, _) => root.join(&line.path).is_dir(),
        _ => false,
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
fn remove_others(root: &Path, at: &Path, listed: &HashMap<u128, Origin>) -> io::Result<()> {
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
            () if leads_to_folder || listed.contains_key(&name(&text)) => {}
            () => files::remove_if_there(&entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(path: &str, part: u32, size: u64, pages: Option<u32>) -> FileLine {
        let (path, digest) = (path.to_owned(), Some("0".repeat(32)));
        FileLine { path, part, size: Some(size), digest, pages, modified: 0, mode: 0o600 }
    }

    /// The lists of a chain, the full one first.
    fn layout(lists: &[&[FileLine]]) -> Layout {
        let mut chosen = Chosen::default();
        for (at, lines) in lists.iter().enumerate().rev() {
            lines.iter().for_each(|line| chosen.take(at, at + 1 == lists.len(), line, None, &mut []));
        }
        Layout::Chosen(chosen)
    }

    fn lost(layout: &Layout) -> usize {
        let Layout::Chosen(chosen) = layout else { panic!("chosen") };
        chosen.files.values().filter(|origin| !origin.whole && !origin.may_begin_empty).count()
    }

    #[test]
    fn a_file_is_taken_from_the_newest_backup_that_has_it_whole_and_all_after_it() {
        let full = [line("base/5/1", 1, 8192, None), line("base/5/2", 1, 8192, None), line("base/5/3", 2, 8192, None)];
        let second = [line("base/5/1", 1, 16_384, Some(1)), line("base/5/2", 2, 8192, None)];
        let third =
            [line("base/5/1", 1, 16_384, Some(0)), line("base/5/2", 1, 8192, Some(1)), line("base/5/4", 1, 8192, None)];
        let layout = layout(&[&full, &second, &third]);
        let wants = |path: &str| [0, 1, 2].map(|at| layout.wants(at, path));
        assert_eq!(wants("base/5/1"), [true, true, true]);
        assert_eq!(wants("base/5/2"), [false, true, true], "made anew");
        assert_eq!(wants("base/5/3"), [false; 3], "dropped");
        assert_eq!(wants("base/5/4"), [false, false, true]);
        assert!(layout.begins(0, "base/5/1") && layout.begins(1, "base/5/2") && !layout.begins(2, "base/5/2"));
        assert!(layout.wants_part(0, 1) && !layout.wants_part(0, 2) && layout.wants_part(1, 2));
        assert_eq!(lost(&layout), 0);
    }

    #[test]
    fn a_file_made_after_the_newest_began_is_the_logs_to_fill_and_no_other() {
        let full = [line("base/5/1", 1, 8192, None)];
        let third = [line("base/5/2", 1, 8192, Some(0))];
        let made = layout(&[&full, &[], &third]);
        assert_eq!(lost(&made), 0);
        assert!(made.begins(2, "base/5/2") && made.wants(2, "base/5/2"));
        for older in [Some(0), Some(2)] {
            assert_eq!(lost(&layout(&[&full, &[line("base/5/2", 1, 8192, older)], &third])), 1, "{older:?}");
        }
    }

    #[test]
    fn a_file_that_was_gone_in_between_is_not_the_one_from_before() {
        let full = [line("base/5/1.1", 1, 8192, None), line("base/5/2", 1, 8192, None)];
        let third = [line("base/5/1.1", 1, 8192, Some(1)), line("base/5/2", 1, 8192, Some(1))];
        let layout = layout(&[&full, &[], &third]);
        assert!(!layout.wants(0, "base/5/1.1") && layout.begins(2, "base/5/1.1"), "what a relation grew by");
        assert_eq!(lost(&layout), 1, "base/5/2 is nowhere whole");
    }
}
