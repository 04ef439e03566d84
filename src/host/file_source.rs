//! A regular file as a source: complete only when it was read to the length it had when it was opened, and not beyond.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use chrono::{DateTime, Utc};
use rustix::fs::{Mode, OFlags};

use super::complete::{Complete, Source, SourceError};

/// What tells that a file is still the same one, unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl FileIdentity {
    /// When it was last written to, as the file system says.
    pub fn modified(&self) -> Option<DateTime<Utc>> {
        let (seconds, nanoseconds) = self.modified;
        DateTime::from_timestamp(seconds, u32::try_from(nanoseconds).ok()?)
    }

    /// That of the file `path` now.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::from(&path.symlink_metadata()?))
    }
}

impl From<&std::fs::Metadata> for FileIdentity {
    fn from(facts: &std::fs::Metadata) -> Self {
        let modified = (facts.mtime(), facts.mtime_nsec());
        Self { device: facts.dev(), inode: facts.ino(), size: facts.size(), modified }
    }
}

/// A file that is read once from its beginning to its end.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    identity: FileIdentity,
    read: u64,
    ended: bool,
}

impl FileSource {
    /// Opens the regular file `path`; a symbolic link in its place is refused.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File = rustix::fs::open(path, flags, Mode::empty())?.into();
        let facts = file.metadata()?;
        if !facts.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Ok(Self { identity: FileIdentity::from(&facts), file, read: 0, ended: false })
    }

    /// Its size in bytes when it was opened.
    pub fn size(&self) -> u64 {
        self.identity.size
    }

    /// Which file it is, as it was when it was opened.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Its first bytes, at most `length` of them, without reading on.
    pub fn first(&self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match self.file.read_at(&mut bytes[filled..], filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }
}

impl Read for FileSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.file.read(buffer)?;
        self.read += count as u64;
        self.ended = count == 0;
        match self.read > self.identity.size {
            true => Err(io::Error::other(format!("it has grown beyond its {} bytes", self.identity.size))),
            false => Ok(count),
        }
    }
}

impl Source for FileSource {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        let now = self.file.metadata().map_err(|error| SourceError::io("look at the file again", error))?;
        let same = FileIdentity::from(&now) == self.identity;
        match self.ended && self.read == self.identity.size && same {
            true => Ok(Complete::after(self.read)),
            false if !same => Err(SourceError::new("the file was changed while it was read")),
            false => Err(SourceError::new(format!("{} of {} bytes were read", self.read, self.identity.size))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn file() -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&[7; 100]).unwrap();
        file
    }

    #[test]
    fn a_file_read_to_its_end_is_complete() {
        let file = file();
        let mut source = Box::new(FileSource::open(file.path()).unwrap());
        assert_eq!((source.size(), source.first(3).unwrap().len(), source.first(200).unwrap().len()), (100, 3, 100));
        assert_eq!(source.read_to_end(&mut Vec::new()).unwrap(), 100);
        assert_eq!(source.finish().unwrap().bytes(), 100);
    }

    #[test]
    fn a_file_left_early_grown_cut_or_changed_is_not_complete() {
        let early = file();
        let mut source = Box::new(FileSource::open(early.path()).unwrap());
        source.read_exact(&mut [0; 100]).unwrap();
        assert!(source.finish().is_err(), "its end was not seen");
        for change in [&[1_u8; 100][..], &[1; 50]] {
            let mut other = file();
            let mut source = Box::new(FileSource::open(other.path()).unwrap());
            other.as_file_mut().set_len(0).unwrap();
            std::io::Seek::rewind(other.as_file_mut()).unwrap();
            other.write_all(change).unwrap();
            let _ = source.read_to_end(&mut Vec::new());
            assert!(source.finish().is_err(), "{} bytes", change.len());
        }
        let mut grown = file();
        let mut source = FileSource::open(grown.path()).unwrap();
        grown.write_all(&[7; 1]).unwrap();
        assert!(source.read_to_end(&mut Vec::new()).is_err());
    }

    #[test]
    fn f22_a_planted_link_is_not_followed() {
        let (file, folder) = (file(), tempfile::tempdir().unwrap());
        let link = folder.path().join("segment");
        std::os::unix::fs::symlink(file.path(), &link).unwrap();
        assert!(FileSource::open(&link).is_err() && FileSource::open(folder.path()).is_err());
    }
}
