//! A repository in memory, for tests and for trying things out: create-only, atomic, ordered, without versions.
//!
//! Clones share their content. Names that are no keys can be planted, as somebody else might in a bucket.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};

use crate::host::Complete;
use crate::model::digest::{Digest, Hasher};
use crate::model::key::ObjectKey;
use crate::storage::{
    Download, Features, Link, ObjectMeta, PAGE_OBJECTS, Page, PageToken, Probe, PutOptions, Storage, StorageError,
    StorageErrorKind, Stored, Thaw, Unfinished, Upload, agree, range_within,
};

/// A repository in memory.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    shelf: Arc<Mutex<Shelf>>,
}

#[derive(Debug, Default)]
struct Shelf {
    objects: BTreeMap<String, Object>,
    unfinished: BTreeMap<u64, Unfinished>,
    uploads_begun: u64,
}

#[derive(Debug)]
struct Object {
    bytes: Bytes,
    digest: Digest,
    modified: DateTime<Utc>,
    nonce: Option<String>,
}

impl MemoryStorage {
    /// An empty repository.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `bytes` under any name, a key or not, over whatever is there: what somebody else may do to a store.
    pub fn plant(&self, name: &str, bytes: impl Into<Bytes>) {
        self.shelf().objects.insert(name.to_owned(), Object::new(bytes.into(), None));
    }

    /// Makes `key` as old as a test needs it.
    pub fn set_modified(&self, key: &ObjectKey, modified: DateTime<Utc>) {
        if let Some(object) = self.shelf().objects.get_mut(key.as_str()) {
            object.modified = modified;
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[expect(clippy::disallowed_methods, reason = "a store has its own clock")]
fn now() -> DateTime<Utc> {
    Utc::now()
}

impl Object {
    fn new(bytes: Bytes, nonce: Option<String>) -> Self {
        Self { digest: Digest::of(&bytes), bytes, modified: now(), nonce }
    }

    fn meta(&self, key: ObjectKey) -> ObjectMeta {
        ObjectMeta {
            key,
            size: self.bytes.len() as u64,
            modified: self.modified,
            version: None,
            storage_class: None,
            readable: true,
            digest: Some(self.digest),
            nonce: self.nonce.clone(),
        }
    }
}

impl Shelf {
    fn find(&self, key: &ObjectKey) -> Result<&Object, StorageError> {
        let missing = || StorageError::new(StorageErrorKind::Missing, format!("find {key} in memory"));
        self.objects.get(key.as_str()).ok_or_else(missing)
    }

    fn create(&mut self, key: &ObjectKey, object: Object) -> Result<Stored, StorageError> {
        if self.objects.contains_key(key.as_str()) {
            return Err(StorageError::new(StorageErrorKind::Exists, format!("store {key}: the key is taken")));
        }
        let (size, digest) = (object.bytes.len() as u64, object.digest);
        self.objects.insert(key.as_str().to_owned(), object);
        Ok(Stored { version: None, size, digest: Some(digest), read_back: false })
    }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn features(&self) -> Features {
        Features { conditional_put: true, ..Features::default() }
    }

    async fn probe(&self) -> Result<Probe, StorageError> {
        Ok(Probe { features: self.features(), clock_offset: None })
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta, StorageError> {
        self.shelf().find(key).map(|object| object.meta(key.clone()))
    }

    async fn get(
        &self,
        key: &ObjectKey,
        _version: Option<&str>,
        range: Option<Range<u64>>,
    ) -> Result<Box<dyn Download>, StorageError> {
        let bytes = self.shelf().find(key)?.bytes.clone();
        let range = range_within(key, range, bytes.len() as u64)?;
        let all = bytes.slice(range.start as usize..range.end as usize);
        Ok(Box::new(Piece::of(all)))
    }

    async fn put(&self, key: &ObjectKey, body: Bytes, options: &PutOptions) -> Result<Stored, StorageError> {
        self.shelf().create(key, Object::new(body, options.nonce.clone()))
    }

    async fn upload(&self, key: &ObjectKey, options: &PutOptions) -> Result<Box<dyn Upload>, StorageError> {
        let mut shelf = self.shelf();
        shelf.uploads_begun += 1;
        let number = shelf.uploads_begun;
        let begun = Unfinished { key: key.as_str().to_owned(), handle: number.to_string(), begun: now() };
        shelf.unfinished.insert(number, begun);
        Ok(Box::new(MemoryUpload {
            storage: self.clone(),
            key: key.clone(),
            nonce: options.nonce.clone(),
            number,
            bytes: BytesMut::new(),
            hasher: Hasher::default(),
        }))
    }

    async fn delete(&self, key: &ObjectKey, _version: Option<&str>) -> Result<(), StorageError> {
        self.shelf().objects.remove(key.as_str());
        Ok(())
    }

    async fn list(&self, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
        let after = from.map_or(Bound::Included(prefix), |token| Bound::Excluded(token.0.as_str()));
        let mut page = Page::default();
        for (name, object) in self.shelf().objects.range::<str, _>((after, Bound::Unbounded)) {
            if !name.starts_with(prefix) {
                break;
            }
            match name.parse::<ObjectKey>() {
                Ok(_) if page.objects.len() == PAGE_OBJECTS => {
                    page.next = page.objects.last().map(|last| PageToken(last.key.as_str().to_owned()));
                    return Ok(page);
                }
                Ok(key) => page.objects.push(ObjectMeta { nonce: None, ..object.meta(key) }),
                Err(_) => page.foreign.push(name.clone()),
            }
        }
        Ok(page)
    }

    async fn folders_in(&self, above: &str) -> Result<Vec<String>, StorageError> {
        let shelf = self.shelf();
        let below = shelf.objects.keys().filter_map(|key| key.strip_prefix(above)?.split_once('/'));
        let mut folders: Vec<String> = below.map(|(first, _)| first.into()).collect();
        folders.dedup();
        Ok(folders)
    }

    async fn unfinished(&self) -> Result<Vec<Unfinished>, StorageError> {
        Ok(self.shelf().unfinished.values().cloned().collect())
    }

    async fn abort(&self, unfinished: &Unfinished) -> Result<(), StorageError> {
        self.shelf().unfinished.retain(|_, other| other.handle != unfinished.handle);
        Ok(())
    }

    async fn thaw(&self, key: &ObjectKey, _version: Option<&str>, _days: u32) -> Result<Thaw, StorageError> {
        self.shelf().find(key).map(|_| Thaw::Readable)
    }

    async fn link(&self, key: &ObjectKey, _version: Option<&str>, _lasts: Duration) -> Result<Link, StorageError> {
        Err(StorageError::new(StorageErrorKind::Other, format!("make a link to {key}: memory has no address")))
    }
}

/// Bytes already in memory, as a download.
pub(super) struct Piece {
    size: u64,
    bytes: Option<Bytes>,
}

impl Piece {
    pub(super) fn of(bytes: Bytes) -> Self {
        Self { size: bytes.len() as u64, bytes: Some(bytes) }
    }
}

#[async_trait]
impl Download for Piece {
    fn size(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        Ok(self.bytes.take().filter(|bytes| !bytes.is_empty()))
    }
}

struct MemoryUpload {
    storage: MemoryStorage,
    key: ObjectKey,
    nonce: Option<String>,
    number: u64,
    bytes: BytesMut,
    hasher: Hasher,
}

#[async_trait]
impl Upload for MemoryUpload {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.hasher.update(&bytes);
        self.bytes.extend_from_slice(&bytes);
        Ok(())
    }

    async fn commit(mut self: Box<Self>, _proof: Complete, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        let written = std::mem::take(&mut self.hasher).finish();
        agree(&self.key, (written, self.bytes.len() as u64), (digest, size))?;
        let object = Object::new(self.bytes.split().freeze(), self.nonce.take());
        self.storage.shelf().create(&self.key, object)
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        self.storage.shelf().unfinished.remove(&self.number);
    }
}
