//! Files of the agent's own that must survive a power cut, and files that hold secrets.
//!
//! A file is written beside its place, synced, moved there and its directory synced: it is there whole or not at all.
//! A failed fsync is a failed write and is never tried again: after EIO the kernel has dropped the pages, and a second
//! fsync would say "done" (PostgreSQL wiki, "Fsync Errors").

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, RenameFlags, Uid};
use rustix::io::Errno;
use secrecy::SecretString;
use tempfile::TempDir;

/// Largest file that is taken for a secret, in bytes.
const LONGEST_SECRET: u64 = 1 << 20;
const OTHERS: u32 = 0o077;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// What a caller decides on when a file could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileErrorKind {
    /// There is none.
    Missing,
    /// There is one already.
    Exists,
    /// The file system is full, or out of inodes.
    NoSpace,
    /// This user may not.
    Denied,
    /// Its owner, mode or type would let others read or plant it.
    Unsafe,
    /// It is larger than it may be, or not text.
    Malformed,
    /// Anything else, a failed fsync among it.
    Other,
}

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct FileError {
    /// What a caller decides on.
    pub kind: FileErrorKind,
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl FileError {
    pub(super) fn io(what: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let kind = match source.kind() {
            io::ErrorKind::NotFound => FileErrorKind::Missing,
            io::ErrorKind::AlreadyExists => FileErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FileErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied => FileErrorKind::Denied,
            _ => FileErrorKind::Other,
        };
        Self { kind, what: format!("{what} {}", path.display()), source: Some(source) }
    }

    fn refused(kind: FileErrorKind, what: &str, path: &Path, reason: &str) -> Self {
        Self { kind, what: format!("{what} {}: {reason}", path.display()), source: None }
    }
}

/// Makes the file `path` with `bytes`, readable by this user only. `Exists` when there is one, whatever it holds.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    install(path, bytes, move_to_free_name)
}

/// Makes or replaces the file `path` with `bytes`, readable by this user only. A symbolic link at `path` is replaced,
/// never followed.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    install(path, bytes, |from, to| Ok(rustix::fs::rename(from, to)?))
}

fn install(path: &Path, bytes: &[u8], put: impl Fn(&Path, &Path) -> io::Result<()>) -> Result<(), FileError> {
    let temporary = Temporary::beside(path)?;
    let failed = |source: io::Error| FileError::io(&format!("write {} bytes to", bytes.len()), path, source);
    write_synced(&temporary.path, bytes).map_err(failed)?;
    put(&temporary.path, path).map_err(failed)?;
    sync_directory(parent(path)).map_err(failed)
}

/// The name of a file on its way in; removed on drop if it is still there.
pub(in crate::host) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    pub(in crate::host) fn path(&self) -> &Path {
        &self.path
    }

    pub(in crate::host) fn beside(path: &Path) -> Result<Self, FileError> {
        let Some(name) = path.file_name() else {
            return Err(FileError::refused(FileErrorKind::Other, "write to", path, "it has no file name"));
        };
        let name = format!(".{}.{:016x}.tmp", name.to_string_lossy(), rand::random::<u64>());
        Ok(Self { path: parent(path).join(name) })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; a file that cannot be removed carries a name nobody reads.
        let _ = rustix::fs::unlink(&self.path);
    }
}

pub(in crate::host) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into();
    give_to_owner_of(rustix::fs::open(parent(path), DIRECTORY, Mode::empty())?, &file)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Gives `made` to whom `directory` belongs, where this is root: a command typed by root must not lock the agent's own
/// user out of its files.
pub fn give_to_owner_of(directory: impl AsFd, made: impl AsFd) -> rustix::io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = rustix::fs::fstat(directory)?;
    if owner.st_uid == 0 {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
    rustix::fs::fchown(made, Some(user), Some(group))
}

/// Moves without replacing; by a hard link where the file system knows no `RENAME_NOREPLACE`.
fn move_to_free_name(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => Ok(rustix::fs::linkat(CWD, from, CWD, to, AtFlags::empty())?),
        done => Ok(done?),
    }
}

/// Makes names created in or removed from `directory` durable.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::fsync(rustix::fs::open(directory, DIRECTORY, Mode::empty())?)?)
}

/// Removes the file `path` durably. `Missing` when there is none.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let failed = |source: io::Error| FileError::io("remove", path, source);
    rustix::fs::unlink(path).map_err(|error| failed(error.into()))?;
    sync_directory(parent(path)).map_err(failed)
}

/// Names of what lies in `folder`, unsorted; names that are not UTF-8 are left out. `Missing` when there is no folder.
pub fn names_in(folder: &Path) -> Result<Vec<String>, FileError> {
    let failed = |error: io::Error| FileError::io("list", folder, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().into_string());
    }
    Ok(names)
}

/// The content of `path`, which may be at most `limit` bytes.
pub fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_at_most(open_to_read(path)?, path, limit)
}

/// The secret in `path`, without the line end that editors leave. Refused when the group or others may touch the file,
/// as ssh does; symbolic links are followed, since secret mounts are made of them.
pub fn read_secret_file(path: &Path) -> Result<SecretString, FileError> {
    let file = open_to_read(path)?;
    let mode = file.metadata().map_err(|error| FileError::io("read the secret file", path, error))?.permissions();
    let mode = mode.mode() & 0o7777;
    if mode & OTHERS != 0 {
        let reason = format!("its mode {mode:04o} lets others at it; run: chmod 600 {}", path.display());
        return Err(FileError::refused(FileErrorKind::Unsafe, "read the secret file", path, &reason));
    }
    let malformed = |_| FileError::refused(FileErrorKind::Malformed, "read the secret file", path, "it is not UTF-8");
    let text = String::from_utf8(read_at_most(file, path, LONGEST_SECRET)?).map_err(malformed)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(SecretString::from(text.strip_suffix('\r').unwrap_or(text)))
}

#[expect(clippy::disallowed_methods, reason = "this is where files are opened")]
fn open_to_read(path: &Path) -> Result<File, FileError> {
    File::open(path).map_err(|error| FileError::io("open", path, error))
}

fn read_at_most(file: File, path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|error| FileError::io("read", path, error))?;
    if bytes.len() as u64 > limit {
        let reason = format!("it is larger than {limit} bytes");
        return Err(FileError::refused(FileErrorKind::Malformed, "read", path, &reason));
    }
    Ok(bytes)
}

/// Makes `path` a directory of this user's alone (mode 0700), its parents as needed; one that is there is taken only if
/// it is such a directory already, and no symbolic link.
pub fn private_directory(path: &Path) -> Result<(), FileError> {
    let failed = |error: Errno| FileError::io("use the directory", path, error);
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Err(Errno::NOENT) if path.parent().is_some_and(|above| !above.as_os_str().is_empty()) => {
            private_parents(parent(path))?;
            rustix::fs::mkdir(path, Mode::RWXU).map_err(failed)?;
        }
        Err(Errno::EXIST) => {}
        done => done.map_err(failed)?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(path, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(refused_directory(path, "it is a symbolic link or no directory"));
        }
        opened => opened.map_err(failed)?,
    };
    check_private(&directory, path)
}

/// Parents are made private too; those that are there are left as they are.
fn private_parents(path: &Path) -> Result<(), FileError> {
    if path.is_dir() { Ok(()) } else { private_directory(path) }
}

fn check_private(directory: &OwnedFd, path: &Path) -> Result<(), FileError> {
    let stat = rustix::fs::fstat(directory).map_err(|error| FileError::io("use the directory", path, error))?;
    let (me, mode) = (rustix::process::geteuid().as_raw(), stat.st_mode & 0o7777);
    if stat.st_uid != me {
        return Err(refused_directory(path, &format!("user {} owns it, not user {me}", stat.st_uid)));
    }
    if mode & OTHERS != 0 {
        let reason = format!("its mode {mode:04o} lets others in; run: chmod 700 {}", path.display());
        return Err(refused_directory(path, &reason));
    }
    Ok(())
}

fn refused_directory(path: &Path, reason: &str) -> FileError {
    FileError::refused(FileErrorKind::Unsafe, "use the directory", path, reason)
}

/// A new directory below `parent` that only its owner can enter, given to `owner` (user and group id) where that is
/// not this process's own. Removed with everything in it when dropped.
pub fn temporary_directory(prefix: &str, parent: &Path, owner: Option<(u32, u32)>) -> Result<TempDir, FileError> {
    let made = tempfile::Builder::new().prefix(prefix).permissions(Permissions::from_mode(0o700)).tempdir_in(parent);
    let made = made.map_err(|error| FileError::io("make a temporary directory in", parent, error))?;
    give_to(made.path(), owner)?;
    Ok(made)
}

/// Gives the file or directory `path` to `owner` (user and group id), if there is one; only root may.
pub fn give_to(path: &Path, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    let Some((user, group)) = owner else { return Ok(()) };
    std::os::unix::fs::lchown(path, Some(user), Some(group)).map_err(|error| FileError::io("give away", path, error))
}

/// Whether `path` is short enough for a Unix socket named `name` in it (unix(7): 107 bytes and a NUL).
pub fn fits_a_socket(path: &Path, name: &str) -> bool {
    path.as_os_str().as_bytes().len() + 1 + name.len() <= 107
}
