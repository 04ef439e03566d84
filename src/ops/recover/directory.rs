//! The directory that becomes a data directory: what may be there before, the mark on it, its last step.
//!
//! Until the last step it has no control file, so that PostgreSQL refuses to start it, and a file that says why. The mark
//! remembers which parts are whole; after a restart of the machine none of them is believed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{Space, durable, files};
use crate::model::base::{BACKUP_LABEL, CONTROL_FILE, Tablespace};
use crate::model::failure::{Failure, FailureKind};
use crate::model::size::ByteSize;
use crate::ops::recover::{Options, Plan};
use crate::postgres::control::ControlFile;
use crate::postgres::file_tree::RESTORE_INCOMPLETE;
use crate::steps::scratch;

/// The control file while the restore has not ended.
pub(super) const CONTROL_RESTORING: &str = "global/pg_control.restoring";
const FILE_LIMIT: u64 = 16 << 20;

/// Where a tablespace goes: its oid or old path, and the new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMap {
    /// Oid, or path, in the cluster that was backed up.
    pub old: String,
    /// Path of the copy's.
    pub new: PathBuf,
}

impl FromStr for TablespaceMap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((old, new)) if !old.is_empty() && new.starts_with('/') => {
                Ok(Self { old: old.to_owned(), new: PathBuf::from(new) })
            }
            _ => Err(format!("read {text:?}: expected OLD=NEW, OLD an oid or a path, NEW an absolute path")),
        }
    }
}

/// The directory, marked.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) root: PathBuf,
    /// Parts that are whole, each with the number of its backup in the chain.
    pub(super) done: BTreeSet<(usize, u32)>,
    /// Tablespaces and where they go.
    pub(super) tablespaces: Vec<(Tablespace, PathBuf)>,
    /// Whether there are files that may be kept.
    pub(super) has_files: bool,
    owner: Option<(u32, u32)>,
}

enum Before {
    Nothing,
    Unfinished(BTreeSet<(usize, u32)>),
    Cluster,
}

impl Place {
    /// Whether `path` is a data directory that no restore is making.
    pub(super) fn is_whole(path: &Path) -> bool {
        path.join("PG_VERSION").is_file()
            && path.join(CONTROL_FILE).is_file()
            && !path.join(RESTORE_INCOMPLETE).exists()
    }

    /// Refuses what must not be touched and what has no room, and writes nothing.
    pub(super) fn require_possible(plan: &Plan, options: &Options) -> Result<(), Failure> {
        look(plan, options).map(|_| ())
    }

    /// Looks at what is there, refuses what must not be touched, and marks the directory.
    pub(super) fn prepare(plan: &Plan, options: &Options) -> Result<Self, Failure> {
        let root = options.to.clone();
        let (before, tablespaces) = look(plan, options)?;
        let owner = owner(&root)?;
        let failed = |error: io::Error| {
            Failure::new(FailureKind::Failed, format!("use the directory {}", options.to.display())).because(error)
        };
        files::make_directories(&root, owner).map_err(failed)?;
        files::set_mode(&root, 0o700).map_err(failed)?;
        let control = root.join(CONTROL_FILE);
        if matches!(before, Before::Unfinished(_)) && control.exists() {
            // It died between its last two steps; the control file goes back to what it was.
            files::put_in_place(&control, &root.join(CONTROL_RESTORING)).map_err(failed)?;
        }
        let (done, has_files) = match before {
            Before::Nothing => (BTreeSet::new(), false),
            Before::Unfinished(done) => (done, false),
            Before::Cluster => (BTreeSet::new(), true),
        };
        let place = Self { root, done, tablespaces, has_files, owner };
        place.mark(plan)?;
        files::remove_if_there(&control).map_err(failed)?;
        place.link_tablespaces().map_err(failed)?;
        Ok(place)
    }

    /// Whom everything in it belongs to, where that is not this process's own user.
    pub(super) fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    fn mark(&self, plan: &Plan) -> Result<(), Failure> {
        let boot = files::boot_identity().unwrap_or_default();
        let parts: String = self.done.iter().map(|(at, part)| format!("part {at}.{part}\n")).collect();
        let text = format!(
            "This is no data directory: a restore into it has not ended, and PostgreSQL must not start it.\n\
             Run the same `dbagent restore` again, and it goes on; or remove the directory.\n\
             backup {}\nboot {boot}\n{parts}",
            plan.artifact.manifest.id
        );
        durable::replace(&self.root.join(RESTORE_INCOMPLETE), text.as_bytes()).map_err(unwritable)
    }

    /// Remembers that a part of backup number `at` is whole.
    pub(super) fn note_part(&self, at: usize, part: u32) -> io::Result<()> {
        files::append(&self.root.join(RESTORE_INCOMPLETE), &format!("part {at}.{part}"))
    }

    fn link_tablespaces(&self) -> io::Result<()> {
        for (tablespace, path) in &self.tablespaces {
            files::make_directories(path, self.owner)?;
            files::set_mode(path, 0o700)?;
            files::make_directories(&self.root.join("pg_tblspc"), self.owner)?;
            files::link(path, &self.root.join("pg_tblspc").join(tablespace.oid.to_string()))?;
        }
        Ok(())
    }

    /// Errors unless the label is the one that the server gave the backup, and the control file is of this cluster:
    /// without its label a copy would start from the wrong place and be broken without saying so.
    pub(super) fn require_label(&self, plan: &Plan) -> Result<(), Failure> {
        let refuse = |what: &str| {
            Failure::new(FailureKind::Integrity, format!("finish the restore into {}: {what}", self.root.display()))
                .hint("Nothing was started. Try another copy or another backup.")
        };
        let label = durable::read_bounded(&self.root.join(BACKUP_LABEL), FILE_LIMIT)
            .map_err(|_| refuse("it has no backup_label"))?;
        if label != plan.base.backup_label.as_bytes() {
            return Err(refuse("its backup_label is not the one of the backup"));
        }
        let control = durable::read_bounded(&self.root.join(CONTROL_RESTORING), FILE_LIMIT).ok();
        let control = control
            .and_then(|bytes| ControlFile::parse(&bytes))
            .ok_or_else(|| refuse("it has no whole control file"))?;
        match plan.artifact.manifest.source.system_identifier {
            Some(system) if system != control.system_identifier => Err(refuse("its control file is another cluster's")),
            _ => Ok(()),
        }
    }

    /// Makes everything durable, then the directory a data directory, then takes the mark away.
    pub(super) fn finish(&self) -> Result<(), Failure> {
        let failed = |error: io::Error| {
            Failure::new(FailureKind::Failed, format!("make {} durable", self.root.display())).because(error)
        };
        files::sync_file_system(&self.root).map_err(failed)?;
        for (_, path) in &self.tablespaces {
            files::sync_file_system(path).map_err(failed)?;
        }
        files::put_in_place(&self.root.join(CONTROL_RESTORING), &self.root.join(CONTROL_FILE)).map_err(failed)?;
        pass(FailPoint::RecoverBeforeUnmark)?;
        durable::remove(&self.root.join(RESTORE_INCOMPLETE)).map_err(unwritable)?;
        Ok(())
    }
}

fn unwritable(error: durable::FileError) -> Failure {
    Failure::new(FailureKind::Failed, "write into the new data directory")
        .because(error)
        .hint("Run it as a user that may write there; look at the room that is left.")
}

/// What is there before, and where tablespaces go. Errors where something must not be touched or has no room.
fn look(plan: &Plan, options: &Options) -> Result<(Before, Vec<(Tablespace, PathBuf)>), Failure> {
    let before = before(&options.to, plan, options)?;
    let tablespaces = tablespaces(plan, options, matches!(before, Before::Nothing))?;
    if matches!(before, Before::Nothing) {
        require_room(&options.to, tablespaces.iter().map(|(_, path)| path.as_path()), plan)?;
    }
    Ok((before, tablespaces))
}

/// What is at `root` before.
fn before(root: &Path, plan: &Plan, options: &Options) -> Result<Before, Failure> {
    let refuse =
        |why: String| Failure::new(FailureKind::RefusedForSafety, format!("restore into {}: {why}", root.display()));
    let mut entries = match std::fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Before::Nothing),
        Err(error) => return Err(refuse("it is no directory that can be read".into()).because(error)),
        Ok(entries) => entries,
    };
    if entries.next().is_none() {
        return Ok(Before::Nothing);
    }
    require_stopped(root)?;
    if let Ok(mark) = durable::read_bounded(&root.join(RESTORE_INCOMPLETE), FILE_LIMIT) {
        return unfinished(&String::from_utf8_lossy(&mark), plan).ok_or_else(|| {
            refuse("an unfinished restore of another backup is in it".into())
                .hint("Remove the directory, or choose another.")
        });
    }
    if !options.delta {
        return Err(refuse("it is not empty".into())
            .hint("Choose an empty directory; --delta brings a stopped copy of this cluster up to date."));
    }
    let version = durable::read_bounded(&root.join("PG_VERSION"), 64).unwrap_or_default();
    let version = String::from_utf8_lossy(&version).trim().to_owned();
    if version != plan.base.major.to_string() {
        let theirs =
            if version.is_empty() { "no data directory".to_owned() } else { format!("one of PostgreSQL {version}") };
        return Err(refuse(format!("it is {theirs}, the backup is of PostgreSQL {}", plan.base.major)));
    }
    let control =
        durable::read_bounded(&root.join(CONTROL_FILE), FILE_LIMIT).ok().and_then(|bytes| ControlFile::parse(&bytes));
    match (control, plan.artifact.manifest.source.system_identifier) {
        (None, _) => Err(refuse("it has no whole control file".into())),
        (Some(control), Some(system)) if control.system_identifier != system => {
            Err(refuse(format!("it is of the system {}, the backup of {system}", control.system_identifier)))
        }
        _ => Ok(Before::Cluster),
    }
}

/// The parts that are whole, where the mark is of this backup.
fn unfinished(mark: &str, plan: &Plan) -> Option<Before> {
    let value = |key: &str| mark.lines().find_map(|line| line.strip_prefix(key));
    if value("backup ")? != plan.artifact.manifest.id.to_string() {
        return None;
    }
    let same_boot = files::boot_identity().is_ok_and(|boot| value("boot ") == Some(boot.as_str()));
    let part = |text: &str| text.split_once('.').and_then(|(at, part)| Some((at.parse().ok()?, part.parse().ok()?)));
    let parts = mark.lines().filter_map(|line| part(line.strip_prefix("part ")?));
    Some(Before::Unfinished(if same_boot { parts.collect() } else { BTreeSet::new() }))
}

/// Errors while a server runs on `root`.
fn require_stopped(root: &Path) -> Result<(), Failure> {
    let Ok(bytes) = durable::read_bounded(&root.join("postmaster.pid"), 4096) else { return Ok(()) };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let process: Option<i32> = text.lines().next().and_then(|line| line.trim().parse().ok());
    if process.is_some_and(files::is_alive) {
        let message =
            format!("restore into {}: a server runs on it (process {})", root.display(), process.unwrap_or_default());
        return Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Stop it, or choose another directory."));
    }
    Ok(())
}

/// Errors where the file systems of `root` and of the `others` cannot take the files of the backup, all together: which of
/// them goes where is not known before.
pub(super) fn require_room<'p>(
    root: &'p Path,
    others: impl Iterator<Item = &'p Path>,
    plan: &Plan,
) -> Result<(), Failure> {
    let (needed, space) = (plan.base.bytes, Space::over(std::iter::once(root).chain(others)));
    match space {
        Ok(space) if space.free < needed => {
            let message = format!(
                "restore into {}: it needs {}, {} are free",
                root.display(),
                ByteSize(needed),
                ByteSize(space.free)
            );
            Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Make room, or choose another file system."))
        }
        _ => Ok(()),
    }
}

/// What a person should know where there is room for the files of `plan` in the directory, but perhaps none for its log. How
/// much of the log lies there at once is the server's choice, so that this is no reason to refuse.
pub(super) fn tight(plan: &Plan, root: &Path) -> Option<String> {
    let free = Space::over(std::iter::once(root)).ok()?.free;
    let log = plan.reach.segments.saturating_mul(plan.base.segment_bytes);
    tight_for(free, plan.base.bytes, log)
}

fn tight_for(free: u64, files: u64, log: u64) -> Option<String> {
    (free >= files && free - files < log).then(|| {
        format!(
            "{} are free, the files take {}, and the log to replay is {}: the server removes what it has replayed, but may \
             need room for much of it",
            ByteSize(free),
            ByteSize(files),
            ByteSize(log)
        )
    })
}

/// Root gives everything away, because PostgreSQL refuses to run as root: to whom the directory above belongs.
pub(super) fn owner(root: &Path) -> Result<Option<(u32, u32)>, Failure> {
    let user = scratch::server_user().map_err(|error| Failure::new(FailureKind::Failed, error.to_string()))?;
    let Some(user) = user else { return Ok(None) };
    let near = if root.exists() { Some(root) } else { root.parent() };
    let above = near.and_then(|near| files::owner_of(near).ok()).filter(|(user, _)| *user != 0);
    Ok(Some(above.unwrap_or(user)))
}

fn tablespaces(plan: &Plan, options: &Options, fresh: bool) -> Result<Vec<(Tablespace, PathBuf)>, Failure> {
    let all = &plan.base.tablespaces;
    let is = |tablespace: &Tablespace, map: &TablespaceMap| {
        map.old == tablespace.path || map.old == tablespace.oid.to_string()
    };
    if let Some(stray) = options.tablespaces.iter().find(|map| !all.iter().any(|tablespace| is(tablespace, map))) {
        let known: Vec<String> =
            all.iter().map(|tablespace| format!("{} ({})", tablespace.path, tablespace.oid)).collect();
        return Err(Failure::new(
            FailureKind::Usage,
            format!("map the tablespace {}: the backup has none like it", stray.old),
        )
        .hint(format!("It has: {}.", if known.is_empty() { "none".to_owned() } else { known.join(", ") })));
    }
    let mut placed = Vec::new();
    for tablespace in all {
        let map = options.tablespaces.iter().find(|map| is(tablespace, map));
        let path = map.map_or_else(|| PathBuf::from(&tablespace.path), |map| map.new.clone());
        let is_empty = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
        // In a directory that is gone on with, the link must lead there already: another place with files in it may be
        // that of a cluster that runs.
        let link = options.to.join("pg_tblspc").join(tablespace.oid.to_string());
        let is_own = !fresh && std::fs::read_link(&link).is_ok_and(|leads_to| leads_to == path);
        if !is_empty && !is_own {
            let message = format!("restore the tablespace {} into {}: it is not empty", tablespace.oid, path.display());
            return Err(Failure::new(FailureKind::RefusedForSafety, message)
                .hint(format!("Give it another place: --tablespace-map {}=/another/path", tablespace.path)));
        }
        placed.push((tablespace.clone(), path));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::tight_for;

    #[test]
    fn a_log_that_may_not_fit_beside_the_files_is_told() {
        assert_eq!([tight_for(300, 100, 200), tight_for(99, 100, 200)], [None, None], "enough; refused already");
        let told = tight_for(299, 100, 200).unwrap();
        assert!(told.contains("299 B are free") && told.contains("the log to replay is 200 B"), "{told}");
        assert!(tight_for(100, 100, u64::MAX).is_some());
    }
}
