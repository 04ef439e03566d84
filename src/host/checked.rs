//! A source whose bytes are known beforehand: complete only when they have the size and digest they must have.
//!
//! Stops at the first byte too many, so that a stream that never ends costs no more than a whole one.

use std::fmt;
use std::io::{self, Read};

use super::complete::{Complete, Source, SourceError};
use crate::model::digest::{Digest, Hasher};

/// Gives what a reader gives, and ends well only if that is what was expected.
pub struct CheckedSource {
    reader: Box<dyn Read + Send>,
    size: u64,
    digest: Digest,
    read: u64,
    hasher: Hasher,
    ended: bool,
}

impl CheckedSource {
    /// Expects `size` bytes with `digest` of `reader`.
    pub fn new(reader: Box<dyn Read + Send>, size: u64, digest: Digest) -> Self {
        Self { reader, size, digest, read: 0, hasher: Hasher::default(), ended: false }
    }

    fn end(&mut self) -> io::Result<()> {
        if self.read != self.size {
            return Err(wrong(format!("the content ends after {} of {} bytes", self.read, self.size)));
        }
        let digest = std::mem::take(&mut self.hasher).finish();
        if !self.ended && digest != self.digest {
            return Err(wrong(format!("the content's digest is {digest}, not {}", self.digest)));
        }
        self.ended = true;
        Ok(())
    }
}

fn wrong(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Read for CheckedSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.reader.read(buffer)?;
        if count == 0 {
            self.end()?;
        }
        self.read += count as u64;
        if self.read > self.size {
            return Err(wrong(format!("the content goes on after its {} bytes", self.size)));
        }
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}

impl Source for CheckedSource {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        match self.ended {
            true => Ok(Complete::after(self.size)),
            false => Err(SourceError::new(format!("{} of {} bytes were read", self.read, self.size))),
        }
    }
}

impl fmt::Debug for CheckedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CheckedSource({} of {})", self.read, self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(bytes: &'static [u8], size: u64, digest: Digest) -> Box<CheckedSource> {
        Box::new(CheckedSource::new(Box::new(bytes), size, digest))
    }

    #[test]
    fn what_was_expected_is_complete() {
        let mut source = source(b"rows", 4, Digest::of(b"rows"));
        let mut read = Vec::new();
        source.read_to_end(&mut read).unwrap();
        assert_eq!(source.read(&mut [0]).unwrap(), 0, "the end stays the end");
        assert_eq!((read.as_slice(), source.finish().unwrap().bytes()), (&b"rows"[..], 4));
    }

    #[test]
    fn anything_else_is_an_error_and_never_complete() {
        let right = Digest::of(b"rows");
        for mut source in [source(b"row", 4, right), source(b"rows!", 4, right), source(b"rowz", 4, right)] {
            assert!(source.read_to_end(&mut Vec::new()).is_err());
            assert!(source.finish().is_err());
        }
        assert!(source(b"rows", 4, right).finish().is_err(), "it was not read");
    }

    #[test]
    fn f42_a_stream_without_end_is_stopped_at_the_first_byte_too_many() {
        let mut source = CheckedSource::new(Box::new(io::repeat(0)), 1000, Digest::of(b""));
        let mut read = Vec::new();
        assert!(source.read_to_end(&mut read).is_err());
        assert!(read.len() <= 1000);
    }
}
