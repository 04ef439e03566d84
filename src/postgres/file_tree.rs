//! What of a data directory belongs into a base backup: walking it, and what is left out.
//!
//! Follows the manual, "Making a Base Backup Using the Low-Level API", and `backend/backup/basebackup.c`: directories
//! whose contents mean nothing in a copy are kept empty; temporary files, temporary relations and the data of unlogged
//! relations are left out. The control file is not walked: it has to be read last. The walk streams; it remembers the
//! unlogged relations of one directory and nothing else.

use std::collections::BTreeSet;
use std::fs::{DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::relation_file::{Fork, RelationFile};
use crate::model::base::{BACKUP_LABEL, CONTROL_FILE, TABLESPACE_MAP};
use crate::model::pages;

/// The mark of a restore that has not ended: such a directory is no data directory.
pub const RESTORE_INCOMPLETE: &str = "RESTORE_INCOMPLETE";

/// Directories whose contents mean nothing in a copy.
const EMPTY: [&str; 8] =
    ["pg_wal", "pg_replslot", "pg_dynshmem", "pg_notify", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];

/// Files at the top that belong to the running server, or to another backup or restore.
const LEFT_OUT: [&str; 13] = [
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    "backup_label.old",
    "tablespace_map.old",
    "backup_manifest",
    "recovery.signal",
    "standby.signal",
    BACKUP_LABEL,
    TABLESPACE_MAP,
    RESTORE_INCOMPLETE,
    // What stock tools unpack of an incremental backup, left by whoever did.
    pages::FOLDER,
];

/// Something to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the data directory, components joined by `/`.
    pub path: String,
    /// Size in bytes when it was seen; nothing for a directory.
    pub size: Option<u64>,
    /// Mode bits.
    pub mode: u32,
    /// Last change, seconds since 1970.
    pub modified: i64,
    /// What is in it, where it is a relation's.
    pub relation: Option<RelationFile>,
}

impl Entry {
    /// A file of `size` bytes, or a directory.
    pub fn of(path: String, size: Option<u64>, mode: u32, modified: i64) -> Self {
        let file = path.rsplit('/').next().and_then(RelationFile::of_name);
        let relation = file.filter(|file| size.is_some() && file.key(&path).is_some());
        Self { path, size, mode, modified, relation }
    }
}

/// Whether what lies at `path` below the data directory belongs to the running server, or to another backup or restore.
pub fn is_left_out(path: &str) -> bool {
    let top = path.split('/').next().unwrap_or_default();
    LEFT_OUT.contains(&top) || is_socket(path)
}

/// The files of a data directory.
#[derive(Clone, Debug)]
pub struct FileTree {
    root: PathBuf,
    /// What the names of tablespaces' directories of this major begin with: `PG_15_`.
    version: String,
}

/// Something in the directory that is not copied and that nobody would expect to be missing.
pub type Skipped = String;

struct Walk<'a> {
    directory: &'a FileTree,
    visit: &'a mut dyn FnMut(Entry) -> io::Result<()>,
    skipped: Vec<Skipped>,
}

impl FileTree {
    /// The data directory `root` of a server of the major version `major`.
    pub fn new(root: &Path, major: u32) -> Self {
        Self { root: root.to_owned(), version: format!("PG_{major}_") }
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What the walk would show of `path`, which it has shown before; nothing where it is gone.
    pub fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        let whole = self.root.join(path);
        // As in the walk: only at the top may a file be a link.
        let facts = if path.contains('/') { std::fs::symlink_metadata(whole) } else { std::fs::metadata(whole) };
        let Some(facts) = gone(facts)?.filter(|facts| facts.is_file() || facts.is_dir()) else { return Ok(None) };
        let size = facts.is_file().then_some(facts.len());
        Ok(Some(Entry::of(path.to_owned(), size, facts.mode() & 0o7777, facts.mtime())))
    }

    /// Shows everything that belongs into a backup to `visit`, directories before what is in them. What vanishes
    /// meanwhile is passed over: the log knows. Gives what was skipped.
    pub fn walk(&self, visit: &mut dyn FnMut(Entry) -> io::Result<()>) -> io::Result<Vec<Skipped>> {
        let mut walk = Walk { directory: self, visit, skipped: Vec::new() };
        walk.top()?;
        Ok(walk.skipped)
    }
}

impl Walk<'_> {
    fn top(&mut self) -> io::Result<()> {
        for found in std::fs::read_dir(&self.directory.root)? {
            let found = found?;
            let Some(name) = self.name(&found, "") else { continue };
            // What stands at the top may be a link to another disk: a copy has it in place.
            let Some(facts) = gone(std::fs::metadata(found.path()))? else { continue };
            match name.as_str() {
                _ if is_temporary(&name) || is_left_out(&name) => {}
                "pg_tblspc" => self.tablespaces(&facts)?,
                _ if facts.is_file() => self.file(name, &facts, None)?,
                _ if !facts.is_dir() => self.skipped.push(name),
                _ if EMPTY.contains(&name.as_str()) => self.empty(&name, &facts)?,
                "global" => self.relations(&name, &facts)?,
                "base" => self.databases(&name, &facts)?,
                _ => self.plain(&name, &facts)?,
            }
        }
        Ok(())
    }

    fn empty(&mut self, name: &str, facts: &Metadata) -> io::Result<()> {
        self.folder(name, facts)?;
        if name == "pg_wal" {
            self.folder("pg_wal/archive_status", facts)?;
        }
        Ok(())
    }

    /// The links themselves are not copied: `tablespace_map` makes them anew, wherever the copy has its tablespaces.
    fn tablespaces(&mut self, facts: &Metadata) -> io::Result<()> {
        self.folder("pg_tblspc", facts)?;
        for (name, _) in self.below("pg_tblspc", true)? {
            let oid = name.rsplit('/').next().unwrap_or_default();
            if !oid.bytes().all(|byte| byte.is_ascii_digit()) {
                self.skipped.push(name);
                continue;
            }
            for (version, facts) in self.below(&name, false)? {
                let is_ours = version.rsplit('/').next().is_some_and(|own| own.starts_with(&self.directory.version));
                if is_ours && facts.is_dir() {
                    self.databases(&version, &facts)?;
                }
            }
        }
        Ok(())
    }

    /// A directory of databases' directories.
    fn databases(&mut self, path: &str, facts: &Metadata) -> io::Result<()> {
        self.folder(path, facts)?;
        for (below, facts) in self.below(path, false)? {
            match facts.is_dir() {
                true => self.relations(&below, &facts)?,
                false => self.file(below, &facts, None)?,
            }
        }
        Ok(())
    }

    /// A directory of relation files.
    fn relations(&mut self, path: &str, facts: &Metadata) -> io::Result<()> {
        self.folder(path, facts)?;
        let unlogged = self.unlogged(path)?;
        let Some(listing) = gone(std::fs::read_dir(self.directory.root.join(path)))? else { return Ok(()) };
        for found in listing {
            let found = found?;
            let Some(name) = self.name(&found, path) else { continue };
            let relation = RelationFile::of_name(&name);
            let left_out = match &relation {
                Some(file) => file.is_temporary || file.fork != Fork::Init && unlogged.contains(&file.number),
                None => is_temporary(&name),
            };
            let whole = format!("{path}/{name}");
            if left_out || whole == CONTROL_FILE {
                continue;
            }
            let Some(facts) = gone(found.metadata())? else { continue };
            match (facts.is_dir(), facts.is_file()) {
                (true, _) => self.plain(&whole, &facts)?,
                (_, true) => self.file(whole, &facts, relation)?,
                _ => self.skipped.push(whole),
            }
        }
        Ok(())
    }

    /// The relations of a directory that have an initialization fork: their data is not in the log, and a copy begins
    /// with that fork.
    fn unlogged(&self, path: &str) -> io::Result<BTreeSet<u32>> {
        let Some(listing) = gone(std::fs::read_dir(self.directory.root.join(path)))? else {
            return Ok(BTreeSet::new());
        };
        let mut found = BTreeSet::new();
        for entry in listing {
            let file = entry?.file_name().to_str().and_then(RelationFile::of_name);
            found.extend(file.filter(|file| file.fork == Fork::Init).map(|file| file.number));
        }
        Ok(found)
    }

    /// Any other directory, with everything below it.
    fn plain(&mut self, path: &str, facts: &Metadata) -> io::Result<()> {
        self.folder(path, facts)?;
        for (below, facts) in self.below(path, false)? {
            match (facts.is_dir(), facts.is_file()) {
                (true, _) => self.plain(&below, &facts)?,
                (_, true) => self.file(below, &facts, None)?,
                _ => self.skipped.push(below),
            }
        }
        Ok(())
    }

    /// What is in a directory of few entries, with facts; links are followed where `follow` says so.
    fn below(&mut self, path: &str, follow: bool) -> io::Result<Vec<(String, Metadata)>> {
        let Some(listing) = gone(std::fs::read_dir(self.directory.root.join(path)))? else { return Ok(Vec::new()) };
        let mut below = Vec::new();
        for found in listing {
            let found = found?;
            let Some(name) = self.name(&found, path) else { continue };
            if is_temporary(&name) {
                continue;
            }
            let facts = if follow { std::fs::metadata(found.path()) } else { found.metadata() };
            below.extend(gone(facts)?.map(|facts| (format!("{path}/{name}"), facts)));
        }
        Ok(below)
    }

    fn folder(&mut self, path: &str, facts: &Metadata) -> io::Result<()> {
        let (mode, modified) = (facts.mode() & 0o7777, facts.mtime());
        (self.visit)(Entry { path: path.to_owned(), size: None, mode, modified, relation: None })
    }

    fn file(&mut self, path: String, facts: &Metadata, relation: Option<RelationFile>) -> io::Result<()> {
        let (mode, modified) = (facts.mode() & 0o7777, facts.mtime());
        (self.visit)(Entry { path, size: Some(facts.len()), mode, modified, relation })
    }

    /// The entry's name; one that is not text is skipped.
    fn name(&mut self, found: &DirEntry, path: &str) -> Option<String> {
        let name = found.file_name().into_string();
        name.map_err(|name| self.skipped.push(format!("{path}/{}", name.to_string_lossy()))).ok()
    }
}

fn is_temporary(name: &str) -> bool {
    name.starts_with("pgsql_tmp") || name.starts_with("pg_internal.init")
}

/// A server may have its socket here. The lock beside it is a plain file that names the server's process, and PostgreSQL
/// refuses to start a copy while any process has that number.
fn is_socket(name: &str) -> bool {
    name.starts_with(".s.PGSQL.")
}

/// Nothing where it has vanished meanwhile.
fn gone<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
