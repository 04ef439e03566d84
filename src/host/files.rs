//! Files of others that are read as they are: regular ones only, never by way of a link or a pipe that hangs.
//!
//! What is written here must survive a power cut only where its caller says so (`durable` does for our own files).

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

/// A file open for reading.
#[derive(Debug)]
pub struct OpenFile {
    file: File,
    size: u64,
}

impl OpenFile {
    /// Opens the regular file `path`. A symbolic link in its last component is followed only where `follow` says so.
    pub fn open(path: &Path, follow: bool) -> io::Result<Self> {
        let link = if follow { OFlags::empty() } else { OFlags::NOFOLLOW };
        // NONBLOCK keeps a pipe from hanging us; it means nothing for a file.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | link;
        let file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
        let facts = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(facts.st_mode) {
            FileType::RegularFile => Ok(Self { file, size: u64::try_from(facts.st_size).unwrap_or_default() }),
            _ => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Its size when it was opened.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads on until `buffer` is full or the file ends; gives the bytes read.
    pub fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads at `offset` until `buffer` is full or the file ends, wherever reading stands; gives the bytes read.
    pub fn fill_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads exactly `buffer` at `offset`, wherever reading stands.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

/// A new file being written. Nobody sees that it is whole until its caller says so.
#[derive(Debug)]
pub struct NewFile {
    file: File,
}

impl NewFile {
    /// Makes the file `path` with mode 0600; what is there under its name, link or file, is removed first.
    pub fn create(path: &Path) -> io::Result<Self> {
        match rustix::fs::unlink(path) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(Self { file: rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into() })
    }

    /// Writes on.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// Ends the file: its mode, its last change, its owner (user and group id) where that is another. Durable only after
    /// [`sync_file_system`]: one call for a million files.
    pub fn finish(self, mode: u32, modified: i64, owner: Option<(u32, u32)>) -> io::Result<()> {
        rustix::fs::fchmod(&self.file, Mode::from_raw_mode(mode & 0o7777))?;
        set_modified(&self.file, modified)?;
        give(&self.file, owner)
    }
}

/// A file that is there and is changed in places.
#[derive(Debug)]
pub struct PatchedFile {
    file: File,
}

impl PatchedFile {
    /// Opens the regular file `path`, or makes an empty one with mode 0600; a symbolic link in its place is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into();
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(Self { file }),
            _ => Err(io::Error::other("it is no regular file")),
        }
    }

    /// Writes `bytes` at `offset`.
    pub fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    /// Ends it with `size` bytes, zeros where nothing was written; the rest as [`NewFile::finish`].
    pub fn finish(self, size: u64, mode: u32, modified: i64, owner: Option<(u32, u32)>) -> io::Result<()> {
        self.file.set_len(size)?;
        NewFile { file: self.file }.finish(mode, modified, owner)
    }
}

fn set_modified(file: impl AsFd, modified: i64) -> io::Result<()> {
    let at = Timespec { tv_sec: modified, tv_nsec: 0 };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: at, last_modification: at })?)
}

fn give(file: impl AsFd, owner: Option<(u32, u32)>) -> io::Result<()> {
    let Some((user, group)) = owner else { return Ok(()) };
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    Ok(rustix::fs::fchown(file, Some(user), Some(group))?)
}

/// Makes the directory `path`, with its parents, modes 0700; one that is there is taken. New ones go to `owner`.
pub fn make_directories(path: &Path, owner: Option<(u32, u32)>) -> io::Result<()> {
    match rustix::fs::mkdir(path, Mode::RWXU) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            let above = path.parent().ok_or_else(|| io::Error::other("it has no parent"))?;
            make_directories(above, owner)?;
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Err(rustix::io::Errno::EXIST) => return Ok(()),
                made => made?,
            }
        }
        Err(error) => return Err(error.into()),
    }
    let Some((user, group)) = owner else { return Ok(()) };
    let (user, group) = (rustix::fs::Uid::from_raw(user), rustix::fs::Gid::from_raw(group));
    Ok(rustix::fs::chownat(CWD, path, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes everything written to the file system of `path` durable.
pub fn sync_file_system(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?)
}

/// Adds a line to the file `path`, which must be there.
pub fn append(path: &Path, line: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
    file.write_all(format!("{line}\n").as_bytes())?;
    file.sync_all()
}

/// Makes or replaces the file `path` with `bytes`, readable by this user only. Whoever reads it sees the old or the new
/// one; after a power cut it may be gone or damaged, which its reader must be able to tell.
pub fn replace_quickly(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = super::durable::Temporary::beside(path).map_err(io::Error::other)?;
    let mut file = NewFile::create(temporary.path())?;
    file.write(bytes)?;
    if let Some(folder) = path.parent() {
        let folder = rustix::fs::open(folder, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        super::durable::give_to_owner_of(folder, &file.file)?;
    }
    Ok(rustix::fs::rename(temporary.path(), path)?)
}

/// Moves the file `from` to `to`, which it replaces, durably.
pub fn put_in_place(from: &Path, to: &Path) -> io::Result<()> {
    rustix::fs::rename(from, to)?;
    super::durable::sync_directory(to.parent().unwrap_or(Path::new(".")))
}

/// Tells this start of the machine from others: what was written before a restart may be lost, what was written since is
/// not, however its writer died.
pub fn boot_identity() -> io::Result<String> {
    let bytes =
        super::durable::read_bounded(Path::new("/proc/sys/kernel/random/boot_id"), 128).map_err(io::Error::other)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// User and group id of `path`.
pub fn owner_of(path: &Path) -> io::Result<(u32, u32)> {
    let facts = rustix::fs::stat(path)?;
    Ok((facts.st_uid, facts.st_gid))
}

/// Whether a process with this id lives.
pub fn is_alive(process: i32) -> bool {
    let Some(process) = rustix::process::Pid::from_raw(process) else { return false };
    !matches!(rustix::process::test_kill_process(process), Err(rustix::io::Errno::SRCH))
}

/// Sets the mode of the directory `path`.
pub fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmod(path, Mode::from_raw_mode(mode & 0o7777))?)
}

/// Makes the symbolic link `path` to `target`; a link that is there is replaced.
pub fn link(target: &Path, path: &Path) -> io::Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::symlink(target, path)?)
}

/// Removes the file `path`; one that is not there is no error.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match rustix::fs::unlink(path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
