//! A file on its way to a place where another program waits for it: written in the same folder, moved there whole.
//!
//! It has no name until then where the file system can do that (O_TMPFILE, open(2)): a process that is killed leaves
//! nothing behind. Not synced: what is fetched again after a power cut needs no fsync, and PostgreSQL syncs what it keeps
//! of the files that it asks for.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::durable::{Temporary, give_to_owner_of, parent};

/// The descriptors of this process, by which a file without a name gets one.
const DESCRIPTORS: &str = "/proc/self/fd";

/// A file being written for its place; gone on drop unless it was put there.
pub struct Incoming {
    place: PathBuf,
    file: File,
    /// The name that it has meanwhile, where it must have one.
    named: Option<Temporary>,
}

impl Incoming {
    /// Begins a file that is to be called `place`, readable by this user (or, for root, the directory's owner) only.
    pub fn for_place(place: &Path) -> io::Result<Self> {
        match Path::new(DESCRIPTORS).exists() {
            true => match Self::nameless(place) {
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::named(place),
                begun => Ok(begun?),
            },
            false => Self::named(place),
        }
    }

    fn nameless(place: &Path) -> rustix::io::Result<Self> {
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(parent(place), flags, Mode::RUSR | Mode::WUSR)?.into();
        Self { place: place.to_owned(), file, named: None }.given()
    }

    fn named(place: &Path) -> io::Result<Self> {
        let temporary = Temporary::beside(place).map_err(io::Error::other)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(temporary.path(), flags, Mode::RUSR | Mode::WUSR)?.into();
        Ok(Self { place: place.to_owned(), file, named: Some(temporary) }.given()?)
    }

    fn given(self) -> rustix::io::Result<Self> {
        let directory = rustix::fs::open(parent(&self.place), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        give_to_owner_of(directory, &self.file)?;
        Ok(self)
    }

    /// Bytes written so far.
    pub fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Moves it to its place, over what is there.
    pub fn put(self) -> io::Result<()> {
        let temporary = match self.named {
            Some(temporary) => temporary,
            None => {
                let temporary = Temporary::beside(&self.place).map_err(io::Error::other)?;
                let nameless = format!("{DESCRIPTORS}/{}", self.file.as_raw_fd());
                rustix::fs::linkat(CWD, nameless, CWD, temporary.path(), AtFlags::SYMLINK_FOLLOW)?;
                temporary
            }
        };
        Ok(rustix::fs::rename(temporary.path(), &self.place)?)
    }
}

impl Write for Incoming {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    /// Lets go of one file and puts another; tells how many names one has meanwhile.
    fn come(begin: impl Fn(&Path) -> io::Result<Incoming>) -> usize {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("RECOVERYXLOG");
        let mut file = begin(&place).unwrap();
        file.write_all(b"half").unwrap();
        let meanwhile = names(folder.path()).len();
        assert!(!place.exists());
        drop(file);
        assert_eq!(names(folder.path()).len(), 0);
        for content in ["whole", "another"] {
            let mut file = begin(&place).unwrap();
            file.write_all(content.as_bytes()).unwrap();
            assert_eq!(file.size().unwrap(), content.len() as u64);
            file.put().unwrap();
            assert_eq!(names(folder.path()), ["RECOVERYXLOG"]);
            assert_eq!(folder.path().join("RECOVERYXLOG").metadata().unwrap().len(), content.len() as u64);
        }
        meanwhile
    }

    #[test]
    fn a_file_appears_whole_and_one_given_up_leaves_nothing() {
        assert_eq!(come(Incoming::named), 1);
        let folder = tempfile::tempdir().unwrap();
        let can = Incoming::nameless(&folder.path().join("RECOVERYXLOG")).is_ok();
        assert_eq!(come(Incoming::for_place), usize::from(!can), "names that a killed process leaves behind");
    }
}
