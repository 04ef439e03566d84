//! What an errno means to a caller, and the blocking threads that file access runs on.
//!
//! EIO is never transient: after a failed fsync the kernel may already have dropped the pages, so a second fsync that
//! succeeds proves nothing (the file has to be written anew).

use std::path::Path;

use rustix::io::Errno;

use crate::storage::{StorageError, StorageErrorKind};

/// The error of doing `what` to `path`.
pub(super) fn io(what: impl AsRef<str>, path: &Path, errno: Errno) -> StorageError {
    let message = format!("{} {}", what.as_ref(), path.display());
    let error = StorageError::new(kind(errno), message);
    match errno {
        Errno::LOOP | Errno::XDEV => error.because("a symbolic link is in the way"),
        errno => error.because(errno),
    }
}

fn kind(errno: Errno) -> StorageErrorKind {
    match errno {
        Errno::NOENT | Errno::NOTDIR => StorageErrorKind::Missing,
        Errno::EXIST => StorageErrorKind::Exists,
        Errno::ACCESS | Errno::PERM | Errno::ROFS | Errno::LOOP | Errno::XDEV => StorageErrorKind::Denied,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => StorageErrorKind::Full,
        Errno::INTR | Errno::AGAIN | Errno::STALE | Errno::TIMEDOUT | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            StorageErrorKind::Transient
        }
        _ => StorageErrorKind::Other,
    }
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// What blocking work came to.
pub(super) async fn joined<T>(task: tokio::task::JoinHandle<Result<T, StorageError>>) -> Result<T, StorageError> {
    task.await.unwrap_or_else(|error| {
        Err(StorageError::new(StorageErrorKind::Other, "end a file access in the background").because(error))
    })
}
