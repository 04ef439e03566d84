//! One part of an upload: while it fills, and on its way.
//!
//! Parts of the usual size are in memory. Larger ones, which only very large objects need, go through a file without a name
//! in the state directory, as they are uploaded (ciphertext, unless encryption is "none"), so that memory does not grow with
//! them; a process that dies leaves nothing behind.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_sdk_s3::primitives::{ByteStream, ByteStreamError};
use bytes::{Bytes, BytesMut};
use tokio::task::spawn_blocking;

use crate::model::digest::{Digest, Hasher};
use crate::storage::{StorageError, StorageErrorKind};

/// Bytes collected before they go into the file.
const PIECE: usize = 4 << 20;

/// A part that fills.
pub(super) enum Filling {
    Memory(BytesMut),
    File { directory: PathBuf, file: Option<Writing>, collected: BytesMut, written: u64 },
}

/// The file, and the digest of what it holds.
pub(super) struct Writing {
    file: File,
    hasher: Hasher,
}

/// A part that is whole, to be sent as often as it takes.
#[derive(Clone)]
pub(super) enum Body {
    Memory(Bytes),
    File { file: Arc<File>, size: u64, digest: Digest },
}

impl Default for Filling {
    fn default() -> Self {
        Self::Memory(BytesMut::new())
    }
}

impl Filling {
    /// An empty one for `room` bytes; in a file in `directory` where one is given.
    pub(super) fn begin(room: usize, directory: Option<&Path>) -> Result<Self, StorageError> {
        match directory {
            // Pages are touched as they fill; growing by doubling would copy and hold twice the part.
            None => Ok(Self::Memory(BytesMut::with_capacity(room))),
            Some(directory) => {
                let file = tempfile::tempfile_in(directory).map_err(|error| unwritable(directory, error))?;
                let file = Some(Writing { file, hasher: Hasher::default() });
                Ok(Self::File { directory: directory.to_owned(), file, collected: BytesMut::new(), written: 0 })
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { collected, written, .. } => written + collected.len() as u64,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) async fn extend(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        match self {
            Self::Memory(filling) => filling.extend_from_slice(bytes),
            Self::File { collected, .. } => {
                collected.extend_from_slice(bytes);
                if collected.len() >= PIECE {
                    return self.flush().await;
                }
            }
        }
        Ok(())
    }

    /// Puts what was collected into the file.
    async fn flush(&mut self) -> Result<(), StorageError> {
        let Self::File { directory, file, collected, written } = self else { return Ok(()) };
        let Some(mut writing) = file.take() else {
            return Err(unwritable(directory, io::Error::other("it is closed")));
        };
        let piece = collected.split().freeze();
        *written += piece.len() as u64;
        let wrote = spawn_blocking(move || {
            writing.hasher.update(&piece);
            writing.file.write_all(&piece).map(|()| writing)
        });
        let wrote = wrote.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        *file = Some(wrote.map_err(|error| unwritable(directory, error))?);
        Ok(())
    }

    /// Ends it. An empty one takes its place.
    pub(super) async fn close(&mut self) -> Result<Body, StorageError> {
        self.flush().await?;
        match std::mem::take(self) {
            Self::Memory(bytes) => Ok(Body::Memory(bytes.freeze())),
            Self::File { file: Some(Writing { file, hasher }), written, .. } => {
                Ok(Body::File { file: Arc::new(file), size: written, digest: hasher.finish() })
            }
            Self::File { directory, .. } => Err(unwritable(&directory, io::Error::other("it is closed"))),
        }
    }
}

fn unwritable(directory: &Path, error: io::Error) -> StorageError {
    let message = format!("keep a part of the upload in {}", directory.display());
    StorageError::new(StorageErrorKind::Other, message).because(error)
}

impl Body {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }

    pub(super) async fn digest(&self) -> Result<Digest, StorageError> {
        match self {
            Self::File { digest, .. } => Ok(*digest),
            Self::Memory(bytes) => {
                let bytes = bytes.clone();
                let digest = spawn_blocking(move || Digest::of(&bytes)).await;
                digest.map_err(|error| StorageError::new(StorageErrorKind::Other, "compute a checksum").because(error))
            }
        }
    }

    /// Its bytes from the beginning, for one request.
    pub(super) async fn stream(&self) -> Result<ByteStream, ByteStreamError> {
        match self {
            Self::Memory(bytes) => Ok(ByteStream::from(bytes.clone())),
            // Opened anew by its number: each request reads from the beginning, and the file needs no name.
            Self::File { file, .. } => ByteStream::from_path(format!("/proc/self/fd/{}", file.as_raw_fd())).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn f34_a_large_part_is_in_a_nameless_file_and_can_be_sent_twice() {
        let place = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..9_000_011_u32).map(|n| (n % 251) as u8).collect();
        let mut filling = Filling::begin(bytes.len(), Some(place.path())).unwrap();
        for piece in bytes.chunks(777_777) {
            filling.extend(piece).await.unwrap();
            let Filling::File { collected, .. } = &filling else { panic!("it is in memory") };
            assert!(collected.len() < PIECE && collected.capacity() < 4 * PIECE);
        }
        assert_eq!((filling.len(), std::fs::read_dir(place.path()).unwrap().count()), (bytes.len() as u64, 0));
        let body = filling.close().await.unwrap();
        assert_eq!((body.len(), body.digest().await.unwrap()), (bytes.len() as u64, Digest::of(&bytes)));
        for _ in 0..2 {
            assert_eq!(body.stream().await.unwrap().collect().await.unwrap().to_vec(), bytes);
        }
        assert!(filling.is_empty());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_written_is_named() {
        let error = Filling::begin(1, Some(Path::new("/nonexistent/state"))).map(drop).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/state"), "{error}");
    }
}
