//! Reads the primitives of an archive (bytes, integers, texts, offsets) from input that comes in any pieces.
//!
//! Each method takes what it needs from the front of the input and answers `None` when that ran out in the middle; it
//! is then called again with more. Lengths found in the archive are never believed: memory grows only with bytes that
//! have arrived, and no further than the caller's limit.

use super::ArchiveError;

/// Longest fixed-size primitive: a sign and the eight bytes of an integer, or the eleven of the preamble.
const LONGEST: usize = 16;

#[derive(Debug)]
pub(super) struct Scanner {
    /// Bytes of an integer without its sign, from the preamble.
    integer_bytes: usize,
    /// Bytes of a file offset without its flag, from the preamble.
    offset_bytes: usize,
    partial: [u8; LONGEST],
    filled: usize,
    text: Option<Text>,
}

/// A text on its way in.
#[derive(Debug)]
struct Text {
    left: u64,
    kept: Vec<u8>,
}

/// What becomes of a text.
#[derive(Clone, Copy)]
pub(super) enum Keep {
    /// It is passed over.
    Nothing,
    /// It is kept, and refused when it is longer.
    UpTo(u64),
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self { integer_bytes: 4, offset_bytes: 8, partial: [0; LONGEST], filled: 0, text: None }
    }

    /// Sets the sizes that the preamble told. Refuses what no pg_dump writes.
    pub(super) fn set_sizes(&mut self, integer: u8, offset: u8) -> Result<(), ArchiveError> {
        let sane = |size: u8| (1..=8).contains(&size);
        if !sane(integer) || !sane(offset) {
            return Err(ArchiveError::Corrupt("its header has impossible integer sizes"));
        }
        (self.integer_bytes, self.offset_bytes) = (integer.into(), offset.into());
        Ok(())
    }

    /// Bytes of an integer, its sign not counted.
    pub(super) fn integer_bytes(&self) -> usize {
        self.integer_bytes
    }

    /// Whether the input ended in the middle of a primitive.
    pub(super) fn is_amid(&self) -> bool {
        self.filled > 0 || self.text.is_some()
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self, input: &mut &[u8]) -> Option<[u8; N]> {
        let gathered = self.gather(N, input)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&gathered[..N]);
        Some(bytes)
    }

    /// The next integer: a sign byte and the magnitude, least byte first (`ReadInt` in pg_backup_archiver.c).
    pub(super) fn integer(&mut self, input: &mut &[u8]) -> Result<Option<i64>, ArchiveError> {
        let size = self.integer_bytes + 1;
        let Some(bytes) = self.gather(size, input) else { return Ok(None) };
        let magnitude = bytes[1..size].iter().rev().fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        let magnitude = i64::try_from(magnitude).map_err(|_| ArchiveError::Corrupt("an integer is out of range"))?;
        Ok(Some(if bytes[0] == 0 { magnitude } else { -magnitude }))
    }

    /// Passes over a file offset: a flag and the offset.
    pub(super) fn offset(&mut self, input: &mut &[u8]) -> Option<()> {
        self.gather(self.offset_bytes + 1, input).map(|_| ())
    }

    /// The next text: its length, then its bytes; a negative length is the absent text (`ReadStr`).
    pub(super) fn text(&mut self, input: &mut &[u8], keep: Keep) -> Result<Option<Option<Vec<u8>>>, ArchiveError> {
        if self.text.is_none() {
            let Some(length) = self.integer(input)? else { return Ok(None) };
            let Ok(left) = u64::try_from(length) else { return Ok(Some(None)) };
            if matches!(keep, Keep::UpTo(limit) if left > limit) {
                return Err(ArchiveError::Corrupt("a name or a COPY statement is too long to be one"));
            }
            self.text = Some(Text { left, kept: Vec::new() });
        }
        let Some(text) = &mut self.text else { return Ok(None) };
        let taken = take(input, text.left);
        text.left -= taken.len() as u64;
        if matches!(keep, Keep::UpTo(_)) {
            text.kept.extend_from_slice(taken);
        }
        if text.left > 0 {
            return Ok(None);
        }
        Ok(Some(self.text.take().map(|text| text.kept)))
    }

    /// The next `size` bytes (at most [`LONGEST`]), at the front of what is returned.
    fn gather(&mut self, size: usize, input: &mut &[u8]) -> Option<[u8; LONGEST]> {
        let taken = take(input, (size - self.filled) as u64);
        self.partial[self.filled..self.filled + taken.len()].copy_from_slice(taken);
        self.filled += taken.len();
        if self.filled < size {
            return None;
        }
        self.filled = 0;
        Some(self.partial)
    }
}

/// Takes at most `most` bytes from the front of `input`.
pub(super) fn take<'a>(input: &mut &'a [u8], most: u64) -> &'a [u8] {
    let size = usize::try_from(most).unwrap_or(usize::MAX).min(input.len());
    let (taken, rest) = input.split_at(size);
    *input = rest;
    taken
}
