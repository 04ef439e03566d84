//! A folder of small files that wait to be handed on: each there whole or not at all, each removed only once it was.
//!
//! Names sort in the order in which they were put.

use std::path::{Path, PathBuf};

use crate::host::durable::{self, FileError, FileErrorKind};

/// Largest file, in bytes.
const LIMIT: u64 = 1 << 20;

/// The folder.
#[derive(Clone, Debug)]
pub struct Spool(PathBuf);

impl Spool {
    /// The spool in `folder`, which is made when it is first needed.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self(folder.into())
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.0
    }

    /// Puts a file there, durably. One of that name that is there already is left as it is. Whether it is new.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<bool, FileError> {
        durable::private_directory(&self.0)?;
        match durable::write_new(&self.0.join(name), bytes) {
            Err(error) if error.kind == FileErrorKind::Exists => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Names of everything that waits, in order. Files on their way in are not among them.
    pub fn names(&self) -> Result<Vec<String>, FileError> {
        let mut names = match durable::names_in(&self.0) {
            Err(error) if error.kind == FileErrorKind::Missing => Vec::new(),
            names => names?,
        };
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        Ok(names)
    }

    /// What waits under `name`.
    pub fn read(&self, name: &str) -> Result<Vec<u8>, FileError> {
        durable::read_bounded(&self.0.join(name), LIMIT)
    }

    /// Removes what was handed on. One that is gone already is no error.
    pub fn remove(&self, name: &str) -> Result<(), FileError> {
        match durable::remove(&self.0.join(name)) {
            Err(error) if error.kind == FileErrorKind::Missing => Ok(()),
            done => done,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_there_until_it_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let spool = Spool::new(folder.path().join("state/alerts"));
        assert!(spool.names().unwrap().is_empty(), "a folder that is not there is empty");
        assert!(spool.put("b", b"2").unwrap() && spool.put("a", b"1").unwrap());
        assert!(!spool.put("a", b"other").unwrap());
        assert_eq!(spool.names().unwrap(), ["a", "b"]);
        assert_eq!(spool.read("a").unwrap(), b"1", "the first is kept");
        spool.remove("a").unwrap();
        spool.remove("a").unwrap();
        assert_eq!(spool.names().unwrap(), ["b"]);
    }
}
