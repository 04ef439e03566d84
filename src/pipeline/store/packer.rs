//! The packer's thread: members -> OpenPGP -> stored digest -> pieces for the destinations.
//!
//! Pieces go out as reference-counted bytes, one buffer for all destinations; when the last of them lets go, the buffer
//! comes back to be filled again.

use std::io::{self, Write};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Progress;
use super::destination::Outlets;
use crate::model::digest::{Digest, Hasher};
use crate::pipeline::PipelineError;
use crate::pipeline::gzip::Members;
use crate::pipeline::openpgp::{OpenPgpError, Recipients};

/// Bytes handed to an upload at once.
const PIECE_BYTES: usize = 1 << 20;
/// Buffers kept for another turn; more may be on their way.
const KEPT_BUFFERS: usize = 32;

/// Packs all members and ends the destinations' streams well. Answers size and digest of what they were given.
pub(super) fn pack(
    mut members: Members,
    recipients: Option<&Recipients>,
    outlets: Outlets,
    progress: &Progress,
) -> Result<(u64, Digest), PipelineError> {
    let mut pieces = Pieces::new(outlets, progress);
    match recipients {
        None => write_all(&mut members, &mut pieces)?,
        Some(recipients) => {
            let mut message = recipients.encrypt(&mut pieces)?;
            write_all(&mut members, &mut message)?;
            message.finalize().map_err(|error| failed(error.into()))?;
        }
    }
    pieces.flush_piece().map_err(|error| failed(error.into()))?;
    if let Some(recipients) = recipients {
        recipients.check(&pieces.first)?;
    }
    Ok(pieces.finish())
}

fn write_all(members: &mut Members, sink: &mut dyn Write) -> Result<(), PipelineError> {
    while let Some(member) = members.take()? {
        sink.write_all(&member).map_err(|error| failed(error.into()))?;
    }
    Ok(())
}

/// A sink without destinations left is not an error of its own: the destinations have theirs.
pub(super) fn failed(error: Box<dyn std::error::Error + Send + Sync>) -> PipelineError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error.as_ref());
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
            return PipelineError::Abandoned(crate::pipeline::gzip::Abandoned);
        }
        cause = error.source();
    }
    PipelineError::OpenPgp(OpenPgpError::Failed { doing: "encrypt", cause: error })
}

/// Cuts what is written into pieces, digests them and sends them out.
pub(super) struct Pieces<'a> {
    outlets: Outlets,
    progress: &'a Progress,
    buffer: Vec<u8>,
    buffers: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
    pub(super) first: Bytes,
    hasher: Hasher,
    size: u64,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(outlets: Outlets, progress: &'a Progress) -> Self {
        Self {
            outlets,
            progress,
            buffer: Vec::with_capacity(PIECE_BYTES),
            buffers: bounded(KEPT_BUFFERS),
            first: Bytes::new(),
            hasher: Hasher::default(),
            size: 0,
        }
    }

    /// Sends out what is in the buffer, if anything.
    pub(super) fn flush_piece(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let next = self.buffers.1.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE_BYTES));
        let bytes = std::mem::replace(&mut self.buffer, next);
        self.hasher.update(&bytes);
        self.size += bytes.len() as u64;
        let piece = Bytes::from_owner(Piece { bytes, home: self.buffers.0.clone() });
        if self.first.is_empty() {
            self.first = piece.clone();
        }
        self.progress.stored.store(self.size, Ordering::Relaxed);
        match self.outlets.send(&piece) {
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::BrokenPipe, "no destination is left")),
        }
    }

    /// Ends the destinations' streams well.
    pub(super) fn finish(mut self) -> (u64, Digest) {
        self.outlets.end();
        (self.size, self.hasher.finish())
    }
}

impl Write for Pieces<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        if self.buffer.len() == PIECE_BYTES {
            self.flush_piece()?;
        }
        Ok(taken)
    }

    /// Pieces are cut by size alone.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A buffer that goes home when its last reader is done.
struct Piece {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // When enough are kept, or nobody needs them any more, it is freed.
        let _ = self.home.try_send(bytes);
    }
}
