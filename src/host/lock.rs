//! Exclusive lock files: one holder at a time on this machine, and its name for whoever finds the lock taken.
//!
//! The lock is `flock(2)`: the kernel releases it when the holder dies, however it dies. The file itself stays behind
//! empty; deleting it would let two processes lock two files of one name.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;

const LONGEST_LABEL: u64 = 512;

/// A lock that is held until this value is dropped.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("lock {path}: held by {by}")]
    Held {
        /// The lock file.
        path: String,
        /// Process id and label of the holder, as it wrote them.
        by: String,
    },
    /// The lock file cannot be used.
    #[error("lock {path}")]
    Io {
        /// The lock file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl FileLock {
    /// Takes the lock at `path`, without waiting, and writes this process's id and `label` into it. The directory must
    /// exist. A symbolic link at `path` is refused.
    pub fn take(path: &Path, label: &str) -> Result<Self, LockError> {
        let named = || path.display().to_string();
        let broken = |source: io::Error| LockError::Io { path: named(), source };
        let mut file = open(path).map_err(broken)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(LockError::Held { path: named(), by: holder(file).map_err(broken)? }),
            Err(error) => return Err(broken(error.into())),
        }
        let line = format!("process {} ({label})\n", std::process::id());
        file.set_len(0).and_then(|()| file.write_all(line.as_bytes())).map_err(broken)?;
        Ok(Self { file })
    }
}

fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?.into())
}

fn holder(file: File) -> io::Result<String> {
    let mut by = String::new();
    file.take(LONGEST_LABEL).read_to_string(&mut by)?;
    let by = by.trim();
    Ok(if by.is_empty() { "a process that has not said its name".to_owned() } else { by.to_owned() })
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Closing releases the lock in any case; an old name left in the file misleads only readers of a free lock.
        let _ = self.file.rewind().and_then(|()| self.file.set_len(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_has_one_holder_and_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.lock");
        let held = FileLock::take(&path, "job nightly").unwrap();
        let refused = FileLock::take(&path, "job hourly").unwrap_err();
        let expected = format!("process {} (job nightly)", std::process::id());
        assert!(matches!(&refused, LockError::Held { by, .. } if *by == expected), "{refused}");
        drop(held);
        FileLock::take(&path, "job hourly").unwrap();
    }

    #[test]
    fn f22_a_planted_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (path, target) = (folder.path().join("agent.lock"), folder.path().join("victim"));
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(matches!(FileLock::take(&path, "x"), Err(LockError::Io { .. })));
        assert!(!target.exists());
    }
}
