//! A bounded queue of bytes between two parts, a reader on one end; the end of the stream is a message of its own.
//!
//! A queue that closes without that message was broken off, which reads as an error: a thread that dies cannot look
//! like the end. Blocking on both ends, except for [`RelayWriter::send`].

use std::io::{self, BufRead, Read};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Parcels waiting between two parts.
const QUEUE: usize = 4;
/// Bytes copied into one parcel.
const PARCEL_BYTES: usize = 256 << 10;

/// What goes from one part to the next.
pub(super) enum Parcel {
    Bytes(Bytes),
    End,
    Failed(io::Error),
}

pub(super) struct RelayWriter(mpsc::Sender<Parcel>);

pub(super) struct RelayReader {
    queue: mpsc::Receiver<Parcel>,
    current: Bytes,
    ended: bool,
}

pub(super) fn relay() -> (RelayWriter, RelayReader) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (RelayWriter(sender), RelayReader { queue, current: Bytes::new(), ended: false })
}

impl RelayWriter {
    /// Sends one parcel from a task; false when the reader is gone.
    pub(super) async fn send(&self, parcel: Parcel) -> bool {
        self.0.send(parcel).await.is_ok()
    }

    /// Copies `reader` to its end.
    pub(super) fn copy(&self, reader: &mut dyn Read) -> io::Result<()> {
        loop {
            let mut bytes = vec![0; PARCEL_BYTES];
            let count = reader.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            bytes.truncate(count);
            if self.0.blocking_send(Parcel::Bytes(bytes.into())).is_err() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// Ends the stream, well or with the error. A reader that is gone needs neither.
    pub(super) fn end(&self, result: io::Result<()>) {
        let _ = self.0.blocking_send(match result {
            Ok(()) => Parcel::End,
            Err(error) => Parcel::Failed(error),
        });
    }
}

impl BufRead for RelayReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.queue.blocking_recv() {
                Some(Parcel::Bytes(bytes)) => self.current = bytes,
                Some(Parcel::End) => self.ended = true,
                Some(Parcel::Failed(error)) => return Err(error),
                None => return Err(io::Error::new(io::ErrorKind::BrokenPipe, "the stream was broken off")),
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
    }
}

impl Read for RelayReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}
