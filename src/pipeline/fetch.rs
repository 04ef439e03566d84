//! The mirror of [`super::store`]: stored bytes -> stored digest -> decrypt -> decompress -> content digest.
//!
//! Downloading, decrypting and decompressing run on threads of their own and overlap. Each passes on the end of the
//! stream only after its own check: the source that comes out ends well only when both digests agree. What it gives
//! before its end is unproven, and must be [`verify`]-ed first where that matters.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use super::gzip::Abandoned;
use super::openpgp::DecryptionKeys;
use super::relay::{Parcel, RelayReader, RelayWriter, relay};
use super::{PipelineError, pack, thread};
use crate::host::{CheckedSource, Complete, Source, SourceError};
use crate::model::digest::{Digest, Hasher};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{Encoding, ObjectRecord};
use crate::storage::{Download, StorageError};

/// Reads every stored byte and compares size and digest with the manifest's. Needs no keys.
pub async fn verify(mut download: Box<dyn Download>, record: &ObjectRecord) -> Result<(), PipelineError> {
    let mut stored = Stored::new(record);
    while let Some(bytes) = download.next().await? {
        stored.take(&bytes).map_err(|what| corrupt(record, what))?;
    }
    stored.end().map_err(|what| corrupt(record, what))
}

fn corrupt(record: &ObjectRecord, what: String) -> PipelineError {
    PipelineError::Corrupt { key: record.key.clone(), what }
}

/// The content of an object, as a source to be read on a thread of its own. Errors at once when `keys` do not fit;
/// the source errors on damage, at the latest at its end. Runs on the present runtime.
pub async fn open(
    download: Box<dyn Download>,
    record: &ObjectRecord,
    keys: Option<&DecryptionKeys>,
) -> Result<Box<dyn Source>, PipelineError> {
    let coding = Coding::of(record)?;
    let keys = match (coding.encrypted, keys) {
        (false, _) => None,
        (true, Some(keys)) => Some(keys.clone()),
        (true, None) => return Err(PipelineError::NoKeys(record.key.clone())),
    };
    let (sender, downloaded) = relay();
    let broken = Broken::default();
    tokio::spawn(feed(download, sender, broken.clone()));
    let mut stored = StoredReader { stored: Stored::new(record), downloaded, ended: false };
    let (plain, mut content) = relay();
    let (tell_opened, opened) = oneshot::channel();
    thread::run("decrypt", move || decrypt(&mut stored, keys.as_ref(), tell_opened, &plain))
        .map_err(PipelineError::Threads)?;
    let opened = opened.await.unwrap_or(Err(PipelineError::Abandoned(Abandoned)));
    opened.map_err(|error| broken.take().map_or(error, PipelineError::Storage))?;
    if let Some(encoding) = coding.compressed {
        let (unpacked, next) = relay();
        let packed = std::mem::replace(&mut content, next);
        thread::run("unpack", move || unpack(encoding, packed, &unpacked)).map_err(PipelineError::Threads)?;
    }
    let checked = CheckedSource::new(Box::new(content), record.content_size, record.content_digest);
    Ok(Box::new(Fetched { content: checked, broken }))
}

/// What a failed reading of a fetched source means: a store that cannot be reached, or, in every other case, damage.
pub fn failure(error: io::Error, doing: impl Into<String>) -> Failure {
    match error.downcast::<StorageError>() {
        Ok(error) => error.into(),
        Err(error) => Failure::new(FailureKind::Integrity, doing)
            .because(error)
            .hint("Nothing of it is used. Try another copy or another backup."),
    }
}

/// Where the download's own error waits: the stages between it and the reader would turn it into one of theirs.
#[derive(Clone, Default)]
struct Broken(Arc<Mutex<Option<StorageError>>>);

impl Broken {
    fn put(&self, error: StorageError) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }

    fn take(&self) -> Option<StorageError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Fetched {
    content: CheckedSource,
    broken: Broken,
}

impl Read for Fetched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer).map_err(|error| self.broken.take().map_or(error, io::Error::other))
    }
}

impl Source for Fetched {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        Box::new(self.content).finish()
    }
}

/// What was done to an object's content.
struct Coding {
    compressed: Option<Encoding>,
    encrypted: bool,
}

impl Coding {
    fn of(record: &ObjectRecord) -> Result<Self, PipelineError> {
        let transformations = match record.encoding.split_first() {
            Some((first, rest)) if is_form(*first) => rest,
            _ => &record.encoding,
        };
        match transformations {
            [] => Ok(Self { compressed: None, encrypted: false }),
            [Encoding::OpenPgp] => Ok(Self { compressed: None, encrypted: true }),
            [packed] if is_compression(*packed) => Ok(Self { compressed: Some(*packed), encrypted: false }),
            [packed, Encoding::OpenPgp] if is_compression(*packed) => {
                Ok(Self { compressed: Some(*packed), encrypted: true })
            }
            _ => Err(PipelineError::UnknownEncoding(record.key.clone())),
        }
    }
}

/// Whether it says what the content is, not what was done to it.
fn is_form(encoding: Encoding) -> bool {
    !is_compression(encoding) && encoding != Encoding::OpenPgp
}

fn is_compression(encoding: Encoding) -> bool {
    matches!(encoding, Encoding::Gzip | Encoding::Zstd | Encoding::Lz4)
}

/// Passes on what the store gives; ends when the download or its reader does.
async fn feed(mut download: Box<dyn Download>, queue: RelayWriter, broken: Broken) {
    loop {
        let parcel = match download.next().await {
            Ok(Some(bytes)) => Parcel::Bytes(bytes),
            Ok(None) => Parcel::End,
            Err(error) => {
                let told = io::Error::other(error.to_string());
                broken.put(error);
                Parcel::Failed(told)
            }
        };
        let last = !matches!(parcel, Parcel::Bytes(_));
        if !queue.send(parcel).await || last {
            return;
        }
    }
}

/// Decrypts, or passes on what needs no decryption. Tells whether the keys fit as soon as that is known; whoever asked
/// may be gone by then, and the relay ends by itself.
fn decrypt(
    stored: &mut StoredReader,
    keys: Option<&DecryptionKeys>,
    tell_opened: oneshot::Sender<Result<(), PipelineError>>,
    plain: &RelayWriter,
) {
    let copied = match keys {
        None => {
            let _ = tell_opened.send(Ok(()));
            plain.copy(stored)
        }
        Some(keys) => match keys.decrypt(&mut *stored) {
            Ok(mut plaintext) => {
                let _ = tell_opened.send(Ok(()));
                plain.copy(&mut plaintext)
            }
            Err(error) => {
                let _ = tell_opened.send(Err(error.into()));
                return;
            }
        },
    };
    plain.end(copied.and_then(|()| stored.read_to_the_end()));
}

fn unpack(encoding: Encoding, packed: RelayReader, unpacked: &RelayWriter) {
    let copied = match pack::unpacker(encoding, packed) {
        Ok(Some(mut reader)) => unpacked.copy(reader.as_mut()),
        Ok(None) => Err(io::Error::other("nothing undoes this encoding")),
        Err(error) => Err(error),
    };
    unpacked.end(copied);
}

/// Stored bytes as they come; their end is given out only when they are those of the manifest.
struct StoredReader {
    stored: Stored,
    downloaded: RelayReader,
    ended: bool,
}

impl StoredReader {
    /// Makes sure that the very end was seen, whatever the message's own end was.
    fn read_to_the_end(&mut self) -> io::Result<()> {
        match self.ended {
            true => Ok(()),
            false => io::copy(self, &mut io::sink()).map(|_| ()),
        }
    }
}

impl Read for StoredReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wrong = |what| io::Error::new(io::ErrorKind::InvalidData, format!("the stored object: {what}"));
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let count = self.downloaded.read(buffer)?;
        if count == 0 {
            self.stored.end().map_err(wrong)?;
            self.ended = true;
        }
        self.stored.take(&buffer[..count]).map_err(wrong)?;
        Ok(count)
    }
}

/// Size and digest of stored bytes as they come, against those of the manifest.
struct Stored {
    size: u64,
    digest: Digest,
    hasher: Hasher,
    read: u64,
}

impl Stored {
    fn new(record: &ObjectRecord) -> Self {
        Self { size: record.stored_size, digest: record.stored_digest, hasher: Hasher::default(), read: 0 }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.hasher.update(bytes);
        self.read += bytes.len() as u64;
        match self.read > self.size {
            true => Err(format!("it is longer than its {} bytes", self.size)),
            false => Ok(()),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        let digest = std::mem::take(&mut self.hasher).finish();
        if self.read != self.size {
            return Err(format!("it has {} of {} bytes", self.read, self.size));
        }
        match digest == self.digest {
            true => Ok(()),
            false => Err(format!("its stored digest is {digest}, not {}", self.digest)),
        }
    }
}
