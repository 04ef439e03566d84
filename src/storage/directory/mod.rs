//! A repository in a directory: objects are files under their keys.
//!
//! Durable by fsync of file and folders, create-only by a rename that does not replace, deaf to planted links. Owns
//! nothing but bytes; storage classes and locks do not exist here. Two agents may share one directory; on network file
//! systems the rename falls back to a hard link.

use std::collections::HashSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use rustix::fs::{AtFlags, Mode, Stat, fsync, unlinkat};
use rustix::io::Errno;

use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::storage::{
    Download, Features, Link, ObjectMeta, Page, PageToken, Probe, PutOptions, Storage, StorageError, StorageErrorKind,
    Stored, Thaw, Unfinished, Upload, range_within,
};

mod beneath;
mod fault;
mod listing;
mod part_file;
mod transfer;

use beneath::{Root, split};
use part_file::PartFile;

/// A repository in a directory.
#[derive(Clone, Debug)]
pub struct DirectoryStorage {
    inner: Arc<Inner>,
    path: PathBuf,
}

/// What uploads share with their repository.
#[derive(Debug)]
struct Inner {
    root: Root,
    /// Folders whose own name is known to be durable; keeps a commit to two fsyncs.
    settled: Mutex<HashSet<String>>,
}

impl DirectoryStorage {
    /// Opens the repository in the directory `path`, which must exist: a directory made here could hide a disk that is
    /// not mounted. Refuses a directory that others may write to.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        let root = Root::open(&path).map_err(|errno| fault::io("open the directory", &path, errno))?;
        let inner = Inner { root, settled: Mutex::default() };
        let storage = Self { inner: Arc::new(inner), path };
        storage.check_owner()?;
        Ok(storage)
    }

    /// Opens the repository in `path`, made with mode 0700 if it is missing; the directory above it must exist.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, StorageError> {
        let path = path.into();
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => Self::open(path),
            Err(errno) => Err(fault::io("make the directory", &path, errno)),
        }
    }

    fn check_owner(&self) -> Result<(), StorageError> {
        let stat = self.inner.root.stat().map_err(|errno| fault::io("look at", &self.path, errno))?;
        let others_may_write = Mode::from_raw_mode(stat.st_mode).intersects(Mode::WGRP | Mode::WOTH);
        let me = rustix::process::geteuid();
        let owner_is_trusted = me.is_root() || stat.st_uid == 0 || stat.st_uid == me.as_raw();
        if !others_may_write && owner_is_trusted {
            return Ok(());
        }
        let (path, mode, owner) = (self.path.display(), stat.st_mode & 0o7777, stat.st_uid);
        let message = format!("trust the directory {path}: user {owner} owns it with mode {mode:04o}, it must be 0700");
        Err(StorageError::new(StorageErrorKind::Denied, message))
    }

    /// Runs `work` on the root, on a blocking thread; an errno becomes the error of doing `what` to `key`.
    async fn on_root<T: Send + 'static>(
        &self,
        what: &'static str,
        key: &ObjectKey,
        work: impl FnOnce(&Inner, &str) -> rustix::io::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        fault::blocking(move || {
            work(&inner, key.as_str()).map_err(|errno| fault::io(what, &inner.root.path(key.as_str()), errno))
        })
        .await
    }
}

impl Inner {
    /// Makes the names of `folder` and of all folders above it durable.
    fn settle(&self, folder: &str) -> rustix::io::Result<()> {
        let mut below = folder;
        while !below.is_empty() {
            let above = split(below).0;
            if !self.settled().contains(below) {
                fsync(self.root.folder(above)?)?;
                self.settled().insert(below.to_owned());
            }
            below = above;
        }
        Ok(())
    }

    fn settled(&self) -> MutexGuard<'_, HashSet<String>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a file and the folders that are empty without it, durably.
    fn remove(&self, path: &str) -> rustix::io::Result<()> {
        let (above, name) = split(path);
        let folder = match self.root.folder(above) {
            Err(Errno::NOENT) => return Ok(()),
            folder => folder?,
        };
        match unlinkat(&folder, name, AtFlags::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            removed => removed?,
        }
        fsync(&folder)?;
        self.prune(above);
        Ok(())
    }

    /// Removes `folder` and those above it as far as they are empty; a folder that stays does no harm.
    fn prune(&self, folder: &str) {
        let mut below = folder;
        while !below.is_empty() {
            let (above, name) = split(below);
            self.settled().remove(below);
            let removed = self.root.folder(above).and_then(|above| unlinkat(above, name, AtFlags::REMOVEDIR));
            if removed.is_err() {
                return;
            }
            below = above;
        }
    }
}

fn modified(stat: &Stat) -> DateTime<Utc> {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or_default();
    DateTime::from_timestamp(stat.st_mtime, nanoseconds).unwrap_or_default()
}

fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}

fn meta_of(key: ObjectKey, stat: &Stat) -> ObjectMeta {
    ObjectMeta {
        key,
        size: size(stat),
        modified: modified(stat),
        version: None,
        storage_class: None,
        readable: true,
        digest: None,
        nonce: None,
    }
}

#[async_trait]
impl Storage for DirectoryStorage {
    fn place(&self) -> String {
        format!("file://{}", self.path.display())
    }

    fn features(&self) -> Features {
        Features { conditional_put: true, ..Features::default() }
    }

    async fn probe(&self) -> Result<Probe, StorageError> {
        self.check_owner().map(|()| Probe { features: self.features(), clock_offset: None })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        let look = |inner: &Inner, key: &str| rustix::fs::fstat(inner.root.file(key)?);
        self.on_root("look at", key, look).await.map(|stat| meta_of(key.clone(), &stat))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        _version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError> {
        let open = |inner: &Inner, key: &str| {
            let file = inner.root.file(key)?;
            rustix::fs::fstat(&file).map(|stat| (file, size(&stat)))
        };
        let (file, size) = self.on_root("open", key, open).await?;
        let range = range_within(key, range, size)?;
        Ok(Box::new(transfer::FileDownload::new(file, key.clone(), range.start, range.end)))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, _options: &PutOptions) -> Result<Stored, StorageError> {
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        fault::blocking(move || {
            let mut file = PartFile::create(inner, key)?;
            file.write(&body)?;
            file.commit(Digest::of(&body), body.len() as u64)
        })
        .await
    }

    async fn upload(&self, key: &ObjectKey, _options: &PutOptions) -> Result<Box<dyn Upload>, StorageError> {
        let upload = transfer::FileUpload::begin(Arc::clone(&self.inner), key).ready().await?;
        Ok(Box::new(upload))
    }

    async fn delete(&self, key: &ObjectKey, _version: Option<&str>) -> Result<(), StorageError> {
        self.on_root("delete", key, Inner::remove).await
    }

    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
        let (inner, prefix, from) = (Arc::clone(&self.inner), prefix.to_owned(), from.cloned());
        fault::blocking(move || {
            let mut paging = listing::Paging::new(&prefix, from.as_ref());
            listing::walk(&inner.root, "", &mut paging)?;
            Ok(paging.page)
        })
        .await
    }

    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError> {
        let (inner, above) = (Arc::clone(&self.inner), above.to_owned());
        fault::blocking(move || listing::folders(&inner.root, &above)).await
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError> {
        let inner = Arc::clone(&self.inner);
        fault::blocking(move || {
            let mut parts = listing::Parts::default();
            listing::walk(&inner.root, "", &mut parts)?;
            Ok(parts.0.into_iter().filter_map(|path| unfinished(&inner.root, path)).collect())
        })
        .await
    }

    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError> {
        let (inner, handle) = (Arc::clone(&self.inner), unfinished.handle.clone());
        fault::blocking(move || {
            if part_file::key_of_part(&handle).is_none() {
                let message = format!("remove {handle:?}: it is no temporary file of ours");
                return Err(StorageError::new(StorageErrorKind::Other, message));
            }
            inner.remove(&handle).map_err(|errno| fault::io("remove", &inner.root.path(&handle), errno))
        })
        .await
    }

    async fn thaw(&self, key: &ObjectKey, _version: Option<&str>, _days: u32) -> Result<Thaw, StorageError> {
        self.head(key).await.map(|_| Thaw::Readable)
    }

    async fn link(&self, key: &ObjectKey, _version: Option<&str>, _lasts: Duration) -> Result<Link, StorageError> {
        let path = self.path.join(Path::new(key.as_str()));
        let message = format!("make a link to {key}: it is the file {}", path.display());
        Err(StorageError::new(StorageErrorKind::Other, message))
    }
}

/// What is known of a temporary file; nothing when it has gone meanwhile. Its last write stands for its beginning: an
/// upload that is still written to is never old.
fn unfinished(root: &Root, path: String) -> Option<Unfinished> {
    let begun = modified(&root.stat_of(&path).ok()?);
    Some(Unfinished { key: part_file::key_of_part(&path)?, handle: path, begun })
}
