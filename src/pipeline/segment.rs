//! One WAL file on its way: source -> content digest -> zstd -> OpenPGP -> stored digest -> pieces; and back.
//!
//! A thread for each file, with zstd's own threads beside it where one file is to be fast; several files at once need
//! none. Pieces go through a bounded queue, so that memory stays the same whatever the segment's size. Zstandard frames in
//! one OpenPGP message: `gpg -d | zstd -d` reads it.

use std::io::{self, Read, Write};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use zstd::stream::{read::Decoder, write::Encoder};

use super::gzip::Abandoned;
use super::openpgp::{DecryptionKeys, OpenPgpError, Recipients};
use super::pack::Packer;
use super::relay::{Parcel, RelayReader, RelayWriter, relay};
use super::{PipelineError, thread};
use crate::host::{CheckedSource, Complete, Source, SourceError};
use crate::model::digest::{Digest, Hasher};
use crate::model::key::ObjectKey;
use crate::storage::Download;

/// Bytes of one piece.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces waiting for the uploads: what of a segment of 16 MiB is usually ready before a store has answered.
const WAITING_PIECES: usize = 8;
/// Bytes read at once.
const BLOCK_BYTES: usize = 256 << 10;
/// Content of one frame where zstd has no threads of its own: the log hardly repeats itself over longer distances, so that
/// frames of this size come out as small as one of 16 MiB (1.946 and 1.949 times smaller at level 1), and content that lies
/// in one piece is compressed faster (see `pack`).
const FRAME_BYTES: usize = 2 << 20;
/// Largest window that a frame may ask for (2^23: that of level 19): bounds what reading costs.
const LARGEST_WINDOW: u32 = 23;

/// What to do with a file.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// zstd level; not compressed when absent.
    pub level: Option<i32>,
    /// zstd's threads beside the one that reads, digests and encrypts; 0 for none.
    pub helpers: u32,
    /// Who can read it; not encrypted when absent.
    pub recipients: Option<Recipients>,
}

/// A file that got through, whole.
#[derive(Debug)]
pub struct Packed {
    /// That the source ended well.
    pub proof: Complete,
    /// Size and SHA-256 of the file.
    pub content: (u64, Digest),
    /// Size and SHA-256 of the pieces.
    pub stored: (u64, Digest),
}

/// A file on its way in. Dropping it gives it up.
#[derive(Debug)]
pub struct Packing {
    pieces: mpsc::Receiver<Bytes>,
    ended: oneshot::Receiver<Result<Packed, PipelineError>>,
}

impl Packing {
    /// Begins to pack `source`.
    pub fn start(source: Box<dyn Source>, recipe: Recipe) -> Result<Self, PipelineError> {
        let (sender, pieces) = mpsc::channel(WAITING_PIECES);
        let ended = thread::run("wal", move || pack(source, &recipe, sender)).map_err(PipelineError::Threads)?;
        Ok(Self { pieces, ended })
    }

    /// The next piece; nothing at the end, which [`Packing::finish`] tells to be good or bad.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }

    /// How it ended, after the last piece.
    pub async fn finish(self) -> Result<Packed, PipelineError> {
        self.ended.await.unwrap_or(Err(PipelineError::Abandoned(Abandoned)))
    }
}

fn pack(mut source: Box<dyn Source>, recipe: &Recipe, sender: mpsc::Sender<Bytes>) -> Result<Packed, PipelineError> {
    let mut pieces = Pieces::new(sender);
    let content = match &recipe.recipients {
        None => compress(source.as_mut(), recipe, &mut pieces)?,
        Some(recipients) => {
            let mut message = recipients.encrypt(&mut pieces)?;
            let content = compress(source.as_mut(), recipe, &mut message)?;
            message.finalize().map_err(|error| failed(io::Error::other(error)))?;
            content
        }
    };
    pieces.send().map_err(failed)?;
    if let Some(recipients) = &recipe.recipients {
        recipients.check(&pieces.first)?;
    }
    let proof = source.finish()?;
    Ok(Packed { proof, content, stored: (pieces.size, pieces.hasher.finish()) })
}

fn compress(
    source: &mut dyn Source,
    recipe: &Recipe,
    sink: &mut (dyn Write + Send + Sync),
) -> Result<(u64, Digest), PipelineError> {
    let mut content = Content { source, size: 0, hasher: Hasher::default() };
    match (recipe.level, recipe.helpers) {
        (None, _) => content.copy(sink)?,
        (Some(level), 0) => {
            let mut packer = Packer::zstd(level, FRAME_BYTES, sink).map_err(failed)?;
            while let count @ 1.. = content.read(packer.room())? {
                packer.take(count).map_err(failed)?;
            }
            packer.finish().map_err(failed)?;
        }
        (Some(level), helpers) => {
            let mut encoder = Encoder::new(sink, level).map_err(failed)?;
            encoder.multithread(helpers).map_err(failed)?;
            content.copy(&mut encoder)?;
            encoder.finish().map_err(failed)?;
        }
    }
    Ok((content.size, content.hasher.finish()))
}

/// A file that is digested while it is read.
struct Content<'a> {
    source: &'a mut dyn Source,
    size: u64,
    hasher: Hasher,
}

impl Content<'_> {
    /// The count of bytes read into `room`; 0 at the end.
    fn read(&mut self, room: &mut [u8]) -> Result<usize, PipelineError> {
        loop {
            match self.source.read(room) {
                Ok(count) => {
                    self.hasher.update(&room[..count]);
                    self.size += count as u64;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(SourceError::io("read the file", error).into()),
            }
        }
    }

    fn copy(&mut self, sink: &mut dyn Write) -> Result<(), PipelineError> {
        let mut block = vec![0; BLOCK_BYTES];
        while let count @ 1.. = self.read(&mut block)? {
            sink.write_all(&block[..count]).map_err(failed)?;
        }
        Ok(())
    }
}

/// Whoever wanted the pieces is gone, or something that does not happen to memory.
fn failed(error: io::Error) -> PipelineError {
    match error.kind() {
        io::ErrorKind::BrokenPipe => PipelineError::Abandoned(Abandoned),
        _ => PipelineError::OpenPgp(OpenPgpError::Failed { doing: "compress and encrypt", cause: error.into() }),
    }
}

/// Cuts what is written into pieces, digests them and sends them out.
struct Pieces {
    sender: mpsc::Sender<Bytes>,
    buffer: BytesMut,
    first: Bytes,
    hasher: Hasher,
    size: u64,
}

impl Pieces {
    fn new(sender: mpsc::Sender<Bytes>) -> Self {
        Self {
            sender,
            buffer: BytesMut::with_capacity(PIECE_BYTES),
            first: Bytes::new(),
            hasher: Hasher::default(),
            size: 0,
        }
    }

    /// Sends out what is in the buffer, if anything.
    fn send(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = BytesMut::with_capacity(PIECE_BYTES);
        let piece = std::mem::replace(&mut self.buffer, next).freeze();
        self.hasher.update(&piece);
        self.size += piece.len() as u64;
        if self.first.is_empty() {
            self.first = piece.clone();
        }
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.put_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    /// A piece is sent when it is full.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a stored file must turn out to be.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its object, for messages.
    pub key: ObjectKey,
    /// Whether its bytes are compressed.
    pub compressed: bool,
    /// Whether they are encrypted.
    pub encrypted: bool,
    /// Size and SHA-256 of the file.
    pub content: (u64, Digest),
}

/// Writes the file that `download` holds to `sink` and gives it back when size and digest are right. What was written
/// before is unproven: nobody may see it until then.
pub async fn unpack<S: Write + Send + 'static>(
    download: Box<dyn Download>,
    expected: Expected,
    keys: Option<&DecryptionKeys>,
    sink: S,
) -> Result<S, PipelineError> {
    let keys = match (expected.encrypted, keys) {
        (false, _) => None,
        (true, Some(keys)) => Some(keys.clone()),
        (true, None) => return Err(PipelineError::NoKeys(expected.key)),
    };
    let (sender, downloaded) = relay();
    let unpacked = thread::run("wal", move || read(downloaded, &expected, keys.as_ref(), sink));
    let unpacked = unpacked.map_err(PipelineError::Threads)?;
    // The store's error tells more than that of the reader it cuts off.
    feed(download, sender).await?;
    unpacked.await.unwrap_or(Err(PipelineError::Abandoned(Abandoned)))
}

async fn feed(mut download: Box<dyn Download>, queue: RelayWriter) -> Result<(), PipelineError> {
    loop {
        let (parcel, last) = match download.next().await {
            Ok(Some(bytes)) => (Parcel::Bytes(bytes), false),
            Ok(None) => (Parcel::End, true),
            Err(error) => {
                queue.send(Parcel::Failed(io::Error::other(error.to_string()))).await;
                return Err(error.into());
            }
        };
        // A reader that has given up says why.
        if !queue.send(parcel).await || last {
            return Ok(());
        }
    }
}

fn read<S: Write>(
    mut stored: RelayReader,
    expected: &Expected,
    keys: Option<&DecryptionKeys>,
    mut sink: S,
) -> Result<S, PipelineError> {
    match keys {
        None => decompress(&mut stored, expected, &mut sink)?,
        Some(keys) => decompress(&mut keys.decrypt(&mut stored)?, expected, &mut sink)?,
    }
    // Nothing may follow the message.
    io::copy(&mut stored, &mut io::sink()).map_err(|error| corrupt(expected, error))?;
    Ok(sink)
}

fn decompress(packed: &mut dyn Read, expected: &Expected, sink: &mut dyn Write) -> Result<(), PipelineError> {
    if !expected.compressed {
        return check(packed, expected, sink);
    }
    let decoder = Decoder::new(packed).and_then(|mut decoder| {
        decoder.window_log_max(LARGEST_WINDOW)?;
        Ok(decoder)
    });
    check(&mut decoder.map_err(|error| corrupt(expected, error))?, expected, sink)
}

/// Copies the file; its last byte must come where it was said to, and the digest must be right.
fn check(file: &mut dyn Read, expected: &Expected, sink: &mut dyn Write) -> Result<(), PipelineError> {
    let mut block = vec![0; BLOCK_BYTES];
    let (size, digest) = expected.content;
    let (mut read, mut hasher) = (0, Hasher::default());
    loop {
        let count = file.read(&mut block).map_err(|error| corrupt(expected, error))?;
        read += count as u64;
        if read > size || (count == 0 && read < size) {
            return Err(corrupt(expected, format!("it has {read} bytes, not {size}")));
        }
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
        sink.write_all(&block[..count]).map_err(|error| SourceError::io("write the WAL file", error))?;
    }
    match hasher.finish() == digest {
        true => Ok(()),
        false => Err(corrupt(expected, "its content is not what was recorded")),
    }
}

fn corrupt(expected: &Expected, what: impl ToString) -> PipelineError {
    PipelineError::Corrupt { key: expected.key.clone(), what: what.to_string() }
}

/// Passes a stored object on as it is, for another repository: ends well only when it has `size` and `digest`.
pub fn forward(download: Box<dyn Download>, size: u64, digest: Digest) -> Result<Packing, PipelineError> {
    let (sender, downloaded) = relay();
    // A reader that is gone ends it; its error is told through the relay.
    tokio::spawn(async move { feed(download, sender).await.map_err(|error| tracing::debug!(%error, "cut off")) });
    let source = CheckedSource::new(Box::new(downloaded), size, digest);
    Packing::start(Box::new(source), Recipe { level: None, helpers: 0, recipients: None })
}
