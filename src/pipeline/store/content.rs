//! The content on its way into blocks, counted and digested block by block.
//!
//! pg_dump writes every row as a chunk of its own, with a length of five bytes in front that costs compression about
//! 3 %. [`Content::rows`] joins the rows of a table into chunks as long as a block: the archive stays one that
//! pg_restore reads (PostgreSQL, src/bin/pg_dump/pg_backup_custom.c, `_CustomReadFunc` takes chunks of any length), and
//! the content digest is that of the archive as stored.

use std::sync::atomic::Ordering;

use super::Progress;
use crate::host::{FailPoint, SourceError, reach};
use crate::model::digest::{Digest, Hasher};
use crate::pipeline::PipelineError;
use crate::pipeline::gzip::{Abandoned, Block, Feeder};

/// Longest length field in front of a chunk: a sign and eight bytes.
const LONGEST_LENGTH: usize = 9;

pub(super) struct Content<'a> {
    feeder: Feeder,
    block: Block,
    chunk: Option<Chunk>,
    hasher: Hasher,
    size: u64,
    progress: &'a Progress,
}

/// The chunk being written: where in the block its length field stands, and the bytes of its magnitude.
struct Chunk {
    at: usize,
    integer_bytes: usize,
}

impl<'a> Content<'a> {
    pub(super) fn new(feeder: Feeder, progress: &'a Progress) -> Result<Self, Abandoned> {
        let block = feeder.block()?;
        Ok(Self { feeder, block, chunk: None, hasher: Hasher::default(), size: 0, progress })
    }

    /// Takes bytes as they are.
    pub(super) fn write(&mut self, mut bytes: &[u8]) -> Result<(), PipelineError> {
        while !bytes.is_empty() {
            self.make_room(1)?;
            let taken = self.block.append(bytes);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Takes some of a table's rows into the chunk being written; `integer_bytes` is the size of the archive's integers.
    pub(super) fn rows(&mut self, mut bytes: &[u8], integer_bytes: usize) -> Result<(), PipelineError> {
        while !bytes.is_empty() {
            if self.block.room() == 0 {
                self.send()?;
            }
            if self.chunk.is_none() {
                self.make_room(LONGEST_LENGTH + 1)?;
                self.chunk = Some(Chunk { at: self.block.bytes().len(), integer_bytes });
                self.block.append(&[0; LONGEST_LENGTH][..=integer_bytes]);
            }
            let taken = self.block.append(bytes);
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Ends a table's rows: an empty chunk.
    pub(super) fn end_rows(&mut self, integer_bytes: usize) -> Result<(), PipelineError> {
        self.end_chunk();
        self.write(&[0; LONGEST_LENGTH][..=integer_bytes])
    }

    /// Fills a block straight from `source`, without a copy; false at the source's end.
    pub(super) fn fill(&mut self, source: &mut dyn std::io::Read) -> Result<bool, PipelineError> {
        self.block.fill(source).map_err(|error| SourceError::io("read the source", error))?;
        let full = self.block.room() == 0;
        if full {
            self.send()?;
        }
        Ok(full)
    }

    /// Sends the last block and ends the stream well. Answers the size and digest of what was taken.
    pub(super) fn finish(mut self) -> Result<(u64, Digest), PipelineError> {
        if !self.block.bytes().is_empty() {
            self.send()?;
        }
        self.feeder.finish()?;
        Ok((self.size, self.hasher.finish()))
    }

    /// Writes the chunk's length into its field: a sign byte and the magnitude, least byte first (`WriteInt` in
    /// pg_backup_archiver.c).
    fn end_chunk(&mut self) {
        let Some(Chunk { at, integer_bytes }) = self.chunk.take() else { return };
        let bytes = self.block.bytes_mut();
        let length = (bytes.len() - at - 1 - integer_bytes) as u64;
        bytes[at + 1..=at + integer_bytes].copy_from_slice(&length.to_le_bytes()[..integer_bytes]);
    }

    fn make_room(&mut self, bytes: usize) -> Result<(), PipelineError> {
        match self.block.room() < bytes {
            true => self.send(),
            false => Ok(()),
        }
    }

    /// Sends the block on its way. A chunk never spans two blocks.
    fn send(&mut self) -> Result<(), PipelineError> {
        self.end_chunk();
        let next = self.feeder.block()?;
        let block = std::mem::replace(&mut self.block, next);
        pass(self.size)?;
        self.hasher.update(block.bytes());
        self.size += block.bytes().len() as u64;
        self.progress.bytes.store(self.size, Ordering::Relaxed);
        Ok(self.feeder.push(block)?)
    }
}

/// The fail points of a stream that goes on: its first bytes, and every block after them.
fn pass(before: u64) -> Result<(), SourceError> {
    let point = if before == 0 { FailPoint::DumpFirstByte } else { FailPoint::DumpMidStream };
    reach(point).map_err(|error| SourceError::io("read the source", error))
}
