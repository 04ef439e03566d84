//! Deflate (RFC 1951) by two encoders, and how many blocks each of them gets.
//!
//! ISA-L is two and a half times as fast as libdeflate's level 3 and leaves 4 % more bytes; libdeflate's level 6 leaves
//! 9 % fewer than ISA-L at a third of its speed. No encoder stands between them, so a level that wants to be there gives
//! every so-manieth block to the slower one: which block that is depends on its number alone, so that the same rows
//! make the same bytes.

use isal::{Codec, CompressionLevel};
use libdeflater::{CompressionLvl, Compressor};

/// ISA-L's smallest output; its lower levels gain little speed for what they leave.
const FAST: CompressionLevel = CompressionLevel::Three;
/// libdeflate's level for the blocks of level 2 that ISA-L does not get.
const THOROUGH: u8 = 6;
/// One of so many blocks of level 2 is libdeflate's: as small as zlib's level 6 with pg_dump's own row by row chunks, plus 3 %.
const MIXTURE: usize = 5;

/// A compression level, 1 (fastest) to 12 (smallest): 1 is ISA-L, 2 ISA-L and libdeflate mixed, from 3 on libdeflate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(u8);

impl Level {
    /// The level `number`; nothing unless it is from 1 to 12.
    pub fn new(number: u8) -> Option<Self> {
        (1..=12).contains(&number).then_some(Self(number))
    }

    /// Whether block number `block` (from 0) is ISA-L's.
    fn is_fast(self, block: usize) -> bool {
        match self.0 {
            1 => true,
            2 => !block.is_multiple_of(MIXTURE),
            _ => false,
        }
    }

    fn thorough(self) -> CompressionLvl {
        let number = if self.0 < 3 { THOROUGH } else { self.0 };
        CompressionLvl::new(number.into()).unwrap_or_default()
    }
}

impl Default for Level {
    /// Level 2: on pg_dump archives 3 % larger than what pg_dump and gzip make at their own level 6, at seven times
    /// their speed (`cargo bench --bench pipeline`).
    fn default() -> Self {
        Self(2)
    }
}

/// There is not enough room for the compressed bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("compress: the output does not fit its buffer")]
pub struct NoRoom;

/// One thread's encoders.
pub struct Encoder {
    level: Level,
    thorough: Compressor,
}

impl Encoder {
    /// Encoders for `level`.
    pub fn new(level: Level) -> Self {
        Self { level, thorough: Compressor::new(level.thorough()) }
    }

    /// Bytes that `content_bytes` deflate to at most.
    pub fn bound(&mut self, content_bytes: usize) -> usize {
        self.thorough.deflate_compress_bound(content_bytes)
    }

    /// Deflates `content`, block number `block` of its stream, to the front of `output`; answers the length.
    pub fn deflate(&mut self, block: usize, content: &[u8], output: &mut [u8]) -> Result<usize, NoRoom> {
        if self.level.is_fast(block)
            && let Ok(length) = isal::compress_into(content, output, FAST, Codec::Deflate)
        {
            return Ok(length);
        }
        self.thorough.deflate_compress(content, output).map_err(|_| NoRoom)
    }
}

#[cfg(test)]
mod tests {
    use libdeflater::Decompressor;

    use super::*;

    /// What each kind of content comes to at every level, inflated by another implementation than made it.
    #[test]
    fn every_level_inflates_to_what_was_put_in() {
        let mut noise = vec![0; 300_000];
        let mut state = 1_u64;
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = u8::try_from(state >> 56).unwrap();
        }
        let text = b"0d106ec8-2b3f-4455-a8ea-c659c6275c5c\tlogin\tt\n".repeat(5_000);
        let contents = [Vec::new(), b"x".to_vec(), vec![0; 1 << 20], noise, text];
        for number in 1..=12 {
            let mut encoder = Encoder::new(Level::new(number).unwrap());
            for (block, content) in contents.iter().enumerate() {
                let mut output = vec![0; encoder.bound(content.len())];
                let length = encoder.deflate(block, content, &mut output).unwrap();
                let mut back = vec![0; content.len()];
                let inflated = Decompressor::new().deflate_decompress(&output[..length], &mut back).unwrap();
                assert_eq!((inflated, &back), (content.len(), content), "level {number}, block {block}");
            }
        }
    }

    #[test]
    fn a_buffer_too_small_is_an_error_and_not_a_short_block() {
        for number in [1, 2, 3] {
            let mut encoder = Encoder::new(Level::new(number).unwrap());
            assert_eq!(encoder.deflate(1, &[7; 100_000], &mut [0; 3]), Err(NoRoom), "level {number}");
        }
    }

    #[test]
    fn levels_are_from_1_to_12() {
        assert!(Level::new(0).is_none() && Level::new(13).is_none());
        assert!(Level::new(1).is_some() && Level::new(12).is_some());
    }
}
