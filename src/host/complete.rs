//! The proof that a source of bytes ended well, without which nothing can be committed.
//!
//! [`Complete`] has no public constructor: only the sources of this room make one, and only after the child exited 0
//! *and* its output reached its end, or the file was read to its expected length. A pg_dump that dies half-way can
//! therefore never become an artifact; the mistake cannot be typed.

use std::io::{self, Read};

use bytes::Bytes;

/// Proof that a source gave all its bytes and ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Complete {
    bytes: u64,
}

impl Complete {
    pub(in crate::host) fn after(bytes: u64) -> Self {
        Self { bytes }
    }

    /// Bytes the source gave in all.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Why a source did not end well.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct SourceError {
    what: String,
    #[source]
    source: Option<io::Error>,
}

impl SourceError {
    /// A source that ended badly for the reason `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), source: None }
    }

    /// A source that could not be read.
    pub fn io(what: impl Into<String>, source: io::Error) -> Self {
        Self { what: what.into(), source: Some(source) }
    }
}

/// Something that gives bytes and can prove that it gave all of them. Blocking: read it on a thread of its own.
pub trait Source: Read + Send {
    /// Ends the source. Errors unless its end was reached and it ended well.
    fn finish(self: Box<Self>) -> Result<Complete, SourceError>;
}

/// A source of bytes already in memory.
#[derive(Debug)]
pub struct BytesSource {
    bytes: Bytes,
    at: usize,
}

impl BytesSource {
    /// Gives `bytes`, once.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self { bytes: bytes.into(), at: 0 }
    }
}

impl Read for BytesSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = &self.bytes[self.at..];
        let taken = rest.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&rest[..taken]);
        self.at += taken;
        Ok(taken)
    }
}

impl Source for BytesSource {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        if self.at < self.bytes.len() {
            return Err(SourceError::new(format!("{} of {} bytes were read", self.at, self.bytes.len())));
        }
        Ok(Complete::after(self.bytes.len() as u64))
    }
}

/// Something that is put together of several files while it is read, and knows whether all of them were.
pub trait Assembly: Read + Send {
    /// Errors unless everything was read as far as it had to be.
    fn require_whole(&self) -> Result<(), SourceError>;
}

/// A source that is put together while it is read.
#[derive(Debug)]
pub struct AssembledSource<A> {
    assembly: A,
    read: u64,
    ended: bool,
}

impl<A: Assembly> AssembledSource<A> {
    /// Gives what `assembly` gives.
    pub fn new(assembly: A) -> Self {
        Self { assembly, read: 0, ended: false }
    }
}

impl<A: Assembly> Read for AssembledSource<A> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.assembly.read(buffer)?;
        self.read += count as u64;
        self.ended = count == 0 && !buffer.is_empty();
        Ok(count)
    }
}

impl<A: Assembly> Source for AssembledSource<A> {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        match self.ended {
            true => self.assembly.require_whole().map(|()| Complete::after(self.read)),
            false => Err(SourceError::new(format!("the source was left after {} bytes, before its end", self.read))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_read_to_its_end_is_complete() {
        let mut source = Box::new(BytesSource::new(vec![7; 100]));
        let mut read = Vec::new();
        source.read_to_end(&mut read).unwrap();
        assert_eq!(read, vec![7; 100]);
        assert_eq!(source.finish().unwrap().bytes(), 100);
    }

    #[test]
    fn a_source_left_early_is_not_complete() {
        let mut source = Box::new(BytesSource::new(vec![7; 100]));
        source.read_exact(&mut [0; 99]).unwrap();
        assert!(source.finish().is_err());
    }
}
