//! Bytes between the async rim and blocking threads: one block is written or read while the next is made or used.
//!
//! Small pieces are gathered to blocks of 1 MiB, so that a thread is woken per block and not per piece. Memory: two
//! blocks, or two of the caller's own pieces where those are larger.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rustix::fd::OwnedFd;
use rustix::io::{pread, retry_on_intr};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::host::Complete;
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::storage::directory::part_file::PartFile;
use crate::storage::directory::{Inner, fault};
use crate::storage::{Download, StorageError, StorageErrorKind, Stored, Upload};

const BLOCK: usize = 1 << 20;

/// A file being written.
pub(super) struct FileUpload {
    key: ObjectKey,
    gathered: BytesMut,
    /// Gives the file back after the last block; absent once a block has failed.
    writing: Option<JoinHandle<Result<PartFile, StorageError>>>,
}

impl FileUpload {
    pub(super) fn begin(inner: Arc<Inner>, key: &ObjectKey) -> Self {
        let target = key.clone();
        let writing = Some(spawn_blocking(move || PartFile::create(inner, target)));
        Self { key: key.clone(), gathered: BytesMut::new(), writing }
    }

    /// The file, when the last block is written.
    pub(super) async fn file(&mut self) -> Result<PartFile, StorageError> {
        match self.writing.take() {
            Some(task) => fault::joined(task).await,
            None => Err(StorageError::new(StorageErrorKind::Other, format!("write {} after an error", self.key))),
        }
    }

    /// Waits until the file is there or has failed to be.
    pub(super) async fn ready(mut self) -> Result<Self, StorageError> {
        let file = self.file().await?;
        self.writing = Some(spawn_blocking(move || Ok(file)));
        Ok(self)
    }

    async fn send(&mut self, block: Bytes) -> Result<(), StorageError> {
        let mut file = self.file().await?;
        self.writing = Some(spawn_blocking(move || file.write(&block).map(|()| file)));
        Ok(())
    }
}

#[async_trait]
impl Upload for FileUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if self.gathered.is_empty() && bytes.len() >= BLOCK {
            return self.send(bytes).await;
        }
        self.gathered.extend_from_slice(&bytes);
        if self.gathered.len() >= BLOCK {
            let block = self.gathered.split().freeze();
            return self.send(block).await;
        }
        Ok(())
    }

    async fn commit(mut self: Box<Self>, _proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        let mut file = self.file().await?;
        let rest = self.gathered.split().freeze();
        fault::blocking(move || {
            file.write(&rest)?;
            file.commit(digest, size)
        })
        .await
    }

    async fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        let file = self.file().await?;
        fault::blocking(move || {
            drop(file);
            Ok(())
        })
        .await
    }
}

/// A file being read.
pub(super) struct FileDownload {
    file: Arc<OwnedFd>,
    key: ObjectKey,
    size: u64,
    at: u64,
    end: u64,
    reading: Option<JoinHandle<Result<Bytes, StorageError>>>,
}

impl FileDownload {
    pub(super) fn new(file: OwnedFd, key: ObjectKey, at: u64, end: u64) -> Self {
        Self { file: Arc::new(file), key, size: end - at, at, end, reading: None }
    }

    /// Begins to read the next block, if there is one.
    fn read_on(&mut self) {
        let length = (self.end - self.at).min(BLOCK as u64) as usize;
        if length == 0 {
            return;
        }
        let (file, key, at) = (Arc::clone(&self.file), self.key.clone(), self.at);
        self.at += length as u64;
        self.reading = Some(spawn_blocking(move || read_block(&file, &key, at, length)));
    }
}

#[async_trait]
impl Download for FileDownload {
    fn size(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        if self.reading.is_none() {
            self.read_on();
        }
        let Some(task) = self.reading.take() else { return Ok(None) };
        let block = fault::joined(task).await?;
        self.read_on();
        Ok(Some(block))
    }
}

fn read_block(file: &OwnedFd, key: &ObjectKey, at: u64, length: usize) -> Result<Bytes, StorageError> {
    let mut block = BytesMut::zeroed(length);
    let mut filled = 0;
    while filled < length {
        let read = retry_on_intr(|| pread(file, &mut block[filled..], at + filled as u64));
        match read
            .map_err(|errno| fault::io(format!("read {length} bytes at {at} of"), key.as_str().as_ref(), errno))?
        {
            0 => {
                let message = format!("read {key}: it ended at byte {}", at + filled as u64);
                return Err(StorageError::new(StorageErrorKind::Corrupt, message));
            }
            read => filled += read,
        }
    }
    Ok(block.freeze())
}
