//! A source that a task feeds: what is not a program's output or a file, but made by us piece by piece.
//!
//! Complete only after the feeder has said that it is done; one that is dropped before, by an error or a cancelled task,
//! leaves a stream that was broken off.

use std::io::{self, Read};

use bytes::{Buf as _, Bytes};
use tokio::sync::mpsc;

use super::complete::{Complete, Source, SourceError};

enum Piece {
    Bytes(Bytes),
    End,
}

/// The feeding end.
#[derive(Debug)]
pub struct SourceFeeder(mpsc::Sender<Piece>);

/// The reading end.
#[derive(Debug)]
pub struct FedSource {
    pieces: mpsc::Receiver<Piece>,
    current: Bytes,
    read: u64,
    ended: bool,
}

/// A feeder and its source, with at most `waiting` pieces between them.
pub fn feed(waiting: usize) -> (SourceFeeder, FedSource) {
    let (sender, pieces) = mpsc::channel(waiting.max(1));
    (SourceFeeder(sender), FedSource { pieces, current: Bytes::new(), read: 0, ended: false })
}

impl SourceFeeder {
    /// Gives the next bytes, waiting for room; false when nobody reads any more.
    pub async fn give(&self, bytes: Bytes) -> bool {
        self.0.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// Says that everything was given; false when nobody reads any more.
    pub async fn end(self) -> bool {
        self.0.send(Piece::End).await.is_ok()
    }
}

impl Read for FedSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while self.current.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => self.current = bytes,
                Some(Piece::End) => self.ended = true,
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "what made it was broken off")),
            }
        }
        let count = self.current.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.current[..count]);
        self.current.advance(count);
        self.read += count as u64;
        Ok(count)
    }
}

impl Source for FedSource {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        match self.ended && self.current.is_empty() {
            true => Ok(Complete::after(self.read)),
            false => Err(SourceError::new(format!("the source was left after {} bytes, before its end", self.read))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &mut FedSource) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map(|_| bytes)
    }

    #[test]
    fn a_source_fed_to_its_end_is_complete() {
        let (feeder, mut source) = feed(1);
        let reading = std::thread::spawn(move || (read(&mut source).unwrap(), Box::new(source).finish().unwrap()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            for piece in ["one ", "", "two"] {
                assert!(feeder.give(Bytes::from_static(piece.as_bytes())).await);
            }
            assert!(feeder.end().await);
        });
        let (bytes, complete) = reading.join().unwrap();
        assert_eq!((bytes.as_slice(), complete.bytes()), (&b"one two"[..], 7));
    }

    #[test]
    fn a_source_whose_feeder_goes_away_is_an_error_and_never_complete() {
        let (feeder, mut source) = feed(1);
        drop(feeder);
        assert!(read(&mut source).is_err());
        assert!(Box::new(source).finish().is_err());
    }
}
