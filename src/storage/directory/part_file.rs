//! A file on its way in: written under a hidden temporary name beside its place, then renamed without replacing.
//!
//! What is written is read back from the file right away, and that is what is summed up: the object is verified when it
//! gets its name, without a second passing over it.
//!
//! `.name.<16 hex digits>.part`, opened with O_EXCL and mode 0600. Dropping it removes it. All calls block. A failed
//! write or fsync ends the file for good: nothing is synced twice.

use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, fsync, linkat, openat, renameat_with, unlinkat};
use rustix::io::{Errno, pread, retry_on_intr, write};

use crate::host::durable::give_to_owner_of;
use crate::model::digest::{Digest, Hasher};
use crate::model::key::ObjectKey;
use crate::storage::directory::beneath::{Root, split};
use crate::storage::directory::{Inner, fault};
use crate::storage::{StorageError, Stored, agree};

const TRIES: u32 = 8;

/// Most bytes read back at once.
const BLOCK: usize = 256 << 10;

/// A temporary file with the running digest of its bytes.
pub(super) struct PartFile {
    inner: Arc<Inner>,
    key: ObjectKey,
    folder: OwnedFd,
    name: String,
    file: OwnedFd,
    size: u64,
    /// Over what was read back.
    hasher: Hasher,
    block: Vec<u8>,
}

impl PartFile {
    /// Makes the temporary file for `key`, and its folder where it is missing.
    pub(super) fn create(inner: Arc<Inner>, key: ObjectKey) -> Result<Self, StorageError> {
        let (folder, file, name) = open_part(&inner.root, &key)
            .map_err(|errno| fault::io("make a file for", &inner.root.path(key.as_str()), errno))?;
        Ok(Self { inner, key, folder, name, file, size: 0, hasher: Hasher::default(), block: Vec::new() })
    }

    /// Appends `bytes` and reads them back.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), StorageError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match retry_on_intr(|| write(&self.file, rest)) {
                Ok(0) => return Err(self.error(&format!("write {} more bytes to", rest.len()), Errno::NOSPC)),
                Ok(written) => rest = &rest[written..],
                Err(errno) => {
                    let done = self.size + (bytes.len() - rest.len()) as u64;
                    return Err(self.error(&format!("write {} bytes after the first {done} to", rest.len()), errno));
                }
            }
        }
        self.read_back(bytes.len())
    }

    /// Sums up the next `length` bytes of the file.
    fn read_back(&mut self, length: usize) -> Result<(), StorageError> {
        let end = self.size + length as u64;
        self.block.resize(BLOCK.min(length), 0);
        while self.size < end {
            let wanted = self.block.len().min(usize::try_from(end - self.size).unwrap_or(BLOCK));
            match retry_on_intr(|| pread(&self.file, &mut self.block[..wanted], self.size)) {
                Ok(0) => return Err(self.error(&format!("read back byte {} of", self.size), Errno::IO)),
                Ok(read) => {
                    self.hasher.update(&self.block[..read]);
                    self.size += read as u64;
                }
                Err(errno) => return Err(self.error(&format!("read back byte {} of", self.size), errno)),
            }
        }
        Ok(())
    }

    /// Makes it the object, durably, if it is what the caller says and the name is free.
    pub(super) fn commit(mut self, digest: Digest, size: u64) -> Result<Stored, StorageError> {
        let written = std::mem::take(&mut self.hasher).finish();
        agree(&self.key, (written, self.size), (digest, size))?;
        fsync(&self.file).map_err(|errno| self.error(&format!("sync the {size} bytes of"), errno))?;
        let (above, place) = split(self.key.as_str());
        self.take_name(place).map_err(|errno| match errno {
            Errno::EXIST => self.error("store: there already is", errno),
            errno => self.error("give its name to", errno),
        })?;
        let settled = fsync(&self.folder).and_then(|()| self.inner.settle(above));
        settled.map_err(|errno| {
            // It may or may not survive a crash; without its name nobody will take it for stored.
            let withdrawn = unlinkat(&self.folder, place, AtFlags::empty());
            let what = if withdrawn.is_ok() { "sync the folder of" } else { "sync the folder of, or remove again," };
            self.error(what, errno)
        })?;
        Ok(Stored { version: None, size, digest: Some(digest), read_back: true })
    }

    /// Renames without replacing; links and unlinks where the file system cannot (NFS, some FUSE).
    fn take_name(&self, place: &str) -> rustix::io::Result<()> {
        match renameat_with(&self.folder, &self.name, &self.folder, place, RenameFlags::NOREPLACE) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                linkat(&self.folder, &self.name, &self.folder, place, AtFlags::empty())?;
                unlinkat(&self.folder, &self.name, AtFlags::empty())
            }
            renamed => renamed,
        }
    }

    fn error(&self, what: &str, errno: Errno) -> StorageError {
        fault::io(what, &self.inner.root.path(self.key.as_str()), errno)
    }
}

impl Drop for PartFile {
    fn drop(&mut self) {
        // Gone already after a commit; what a crash leaves is found by `unfinished`.
        if unlinkat(&self.folder, &self.name, AtFlags::empty()).is_ok() {
            self.inner.prune(split(self.key.as_str()).0);
        }
    }
}

/// A fresh temporary file. Tried again when a delete has just removed the empty folder, or the name is planted.
fn open_part(root: &Root, key: &ObjectKey) -> rustix::io::Result<(OwnedFd, OwnedFd, String)> {
    let (above, name) = split(key.as_str());
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut tries = 0;
    loop {
        let folder = root.make_folder(above)?;
        let name = format!(".{name}.{:016x}.part", rand::random::<u64>());
        match openat(&folder, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                give_to_owner_of(&folder, &file)?;
                return Ok((folder, file, name));
            }
            Err(Errno::NOENT | Errno::EXIST) if tries < TRIES => tries += 1,
            Err(errno) => return Err(errno),
        }
    }
}

/// The key that a temporary file's relative path is meant for; nothing when it is none of ours.
pub(super) fn key_of_part(path: &str) -> Option<String> {
    let (folder, name) = split(path);
    let name = name.strip_prefix('.')?.strip_suffix(".part")?;
    let (name, nonce) = name.rsplit_once('.')?;
    let is_nonce = nonce.len() == 16 && nonce.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let key = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
    (is_nonce && key.parse::<ObjectKey>().is_ok()).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_temporary_names_are_taken_for_ours() {
        assert_eq!(key_of_part("full/.a.dump.0123456789abcdef.part").as_deref(), Some("full/a.dump"));
        assert_eq!(key_of_part(".a.0123456789abcdef.part").as_deref(), Some("a"));
        for path in [".a.part", "a.0123456789abcdef.part", ".a.0123456789abcdeX.part", "..0123456789abcdef.part", ".x"]
        {
            assert_eq!(key_of_part(path), None, "{path}");
        }
    }
}
