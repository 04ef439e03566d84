//! Writing and reading whole objects through the `Storage` trait, as tests need it.

use std::io::Read;
use std::ops::Range;

use bytes::Bytes;
use dbagent::host::{BytesSource, Complete, Source};
use dbagent::model::digest::Digest;
use dbagent::model::key::ObjectKey;
use dbagent::storage::{PutOptions, Storage, StorageError, Stored};

pub fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

/// `length` bytes that differ from one kibibyte to the next, and by `seed`. Made by copying: tests run unoptimised.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let block: Vec<u8> = std::iter::repeat_with(&mut next).flatten().take(1016).collect();
    let mut bytes = Vec::with_capacity(length + 1024);
    while bytes.len() < length {
        bytes.extend_from_slice(&next());
        bytes.extend_from_slice(&block);
    }
    bytes.truncate(length);
    bytes.into()
}

/// The proof of a source that gave `bytes` and ended well.
pub fn complete(bytes: &[u8]) -> Complete {
    let mut source = Box::new(BytesSource::new(bytes.to_vec()));
    source.read_to_end(&mut Vec::new()).unwrap();
    source.finish().unwrap()
}

pub async fn put(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<Stored, StorageError> {
    storage.put(&key(name), Bytes::copy_from_slice(bytes), &PutOptions::default()).await
}

/// Uploads `bytes` in pieces of `piece` bytes.
pub async fn upload(
    storage: &dyn Storage,
    name: &str,
    bytes: &Bytes,
    piece: usize,
    options: &PutOptions,
) -> Result<Stored, StorageError> {
    let mut upload = storage.upload(&key(name), options).await?;
    for start in (0..bytes.len()).step_by(piece) {
        upload.write(bytes.slice(start..bytes.len().min(start + piece))).await?;
    }
    upload.commit(complete(bytes), Digest::of(bytes), bytes.len() as u64).await
}

pub async fn read(storage: &dyn Storage, name: &str, range: Option<Range<u64>>) -> Result<Vec<u8>, StorageError> {
    let mut download = storage.get(&key(name), None, range).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// Every key below `prefix`, in the order of the pages, and every foreign name.
pub async fn list(storage: &dyn Storage, prefix: &str) -> (Vec<String>, Vec<String>) {
    let (mut keys, mut foreign, mut from) = (Vec::new(), Vec::new(), None);
    loop {
        let page = storage.list(prefix, from.as_ref()).await.unwrap();
        keys.extend(page.objects.into_iter().map(|object| String::from(object.key)));
        foreign.extend(page.foreign);
        match page.next {
            Some(next) => from = Some(next),
            None => return (keys, foreign),
        }
    }
}
