//! The bytes that the reader of a part holds ready: filled in one go, given away in as many as are asked for.

/// Bytes of a file read in one go: whole pages.
pub(super) const WINDOW_BYTES: usize = 256 << 10;

/// What is held ready.
pub(super) struct Window {
    bytes: Vec<u8>,
    given: usize,
    filled: usize,
}

impl Window {
    /// One that holds nothing.
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; WINDOW_BYTES], given: 0, filled: 0 }
    }

    /// Whether nothing is left to give.
    pub(super) fn is_given(&self) -> bool {
        self.given == self.filled
    }

    /// Room for `count` bytes, at most [`WINDOW_BYTES`]; what was held is gone, and nothing is until [`Window::hold`].
    pub(super) fn room(&mut self, count: usize) -> &mut [u8] {
        self.hold(0);
        &mut self.bytes[..count]
    }

    /// Holds the first `count` bytes of the room.
    pub(super) fn hold(&mut self, count: usize) {
        (self.given, self.filled) = (0, count);
    }

    /// Holds `bytes`, which may be more than fit otherwise: the numbers of a large file's pages.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.bytes.resize(self.bytes.len().max(bytes.len()), 0);
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.hold(bytes.len());
    }

    /// Gives as much as fits into `buffer`, and says how much that is.
    pub(super) fn give(&mut self, buffer: &mut [u8]) -> usize {
        let count = buffer.len().min(self.filled - self.given);
        buffer[..count].copy_from_slice(&self.bytes[self.given..self.given + count]);
        self.given += count;
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_once_in_pieces_of_any_size() {
        let mut window = Window::new();
        assert!(window.is_given());
        let long: Vec<u8> = (0..WINDOW_BYTES + 7).map(|at| (at % 251) as u8).collect();
        window.put(&long);
        let (mut got, mut piece) = (Vec::new(), [0; 1000]);
        while !window.is_given() {
            let count = window.give(&mut piece);
            got.extend_from_slice(&piece[..count]);
        }
        assert_eq!(got, long);
        window.room(3).copy_from_slice(b"abc");
        assert!(window.is_given(), "room is not held yet");
        window.hold(2);
        assert_eq!((window.give(&mut piece), &piece[..2]), (2, b"ab".as_slice()));
    }
}
