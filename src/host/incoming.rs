//! A file on its way to a place where another program waits for it: written beside, moved there whole.
//!
//! Not synced: what is fetched again after a power cut needs no fsync, and PostgreSQL syncs what it keeps of the files
//! that it asks for.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::durable::{Temporary, give_to_owner_of, parent};

/// A file being written beside its place; removed on drop unless it was put there.
pub struct Incoming {
    temporary: Temporary,
    place: PathBuf,
    file: File,
}

impl Incoming {
    /// Begins a file that is to be called `place`, readable by this user (or, for root, the directory's owner) only.
    pub fn beside(place: &Path) -> io::Result<Self> {
        let temporary = Temporary::beside(place).map_err(io::Error::other)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(temporary.path(), flags, Mode::RUSR | Mode::WUSR)?.into();
        let directory = rustix::fs::open(parent(place), OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        give_to_owner_of(directory, &file)?;
        Ok(Self { temporary, place: place.to_owned(), file })
    }

    /// Moves it to its place, over what is there.
    pub fn put(self) -> io::Result<()> {
        Ok(rustix::fs::rename(self.temporary.path(), &self.place)?)
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

    #[test]
    fn a_file_appears_whole_and_one_given_up_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("RECOVERYXLOG");
        let mut file = Incoming::beside(&place).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!place.exists() && names(folder.path()).len() == 1);
        drop(file);
        assert_eq!(names(folder.path()).len(), 0);
        let mut file = Incoming::beside(&place).unwrap();
        file.write_all(b"whole").unwrap();
        file.put().unwrap();
        assert_eq!(names(folder.path()), ["RECOVERYXLOG"]);
    }
}
