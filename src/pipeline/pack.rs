//! Compressing and decompressing one stream on one thread: Zstandard, gzip or LZ4, in the forms stock tools read.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};
use zstd::bulk::Compressor;

use super::gunzip::Gunzip;
use super::relay::RelayReader;
use crate::model::manifest::Encoding;

/// How a stream is compressed, and how hard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard (RFC 8878), level 1 to 19.
    Zstd(i32),
    /// gzip (RFC 1952), level 1 to 9.
    Gzip(u32),
    /// LZ4 frames.
    Lz4,
}

impl Default for Codec {
    /// Zstandard's first level: on heap pages 10 % larger than the third at twice its speed.
    fn default() -> Self {
        Self::Zstd(1)
    }
}

impl Codec {
    /// What a manifest calls it.
    pub fn encoding(self) -> Encoding {
        match self {
            Self::Zstd(_) => Encoding::Zstd,
            Self::Gzip(_) => Encoding::Gzip,
            Self::Lz4 => Encoding::Lz4,
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zstd(level) => write!(f, "zstd {level}"),
            Self::Gzip(level) => write!(f, "gzip {level}"),
            Self::Lz4 => f.write_str("lz4"),
        }
    }
}

/// Bytes read, digested and compressed in one go: they stay in a core's own cache.
const WINDOW_BYTES: usize = 256 << 10;

/// Content of one Zstandard frame, in bytes. A window that goes round in a buffer of its own is searched on zstd's slow
/// path (`ZSTD_compressBlock_doubleFast_extDict`: a fifth to a third slower on heap pages); content that lies in one
/// piece is not. Frames of this size come out as small as one long frame, and `zstd -d` reads them one after the other.
const FRAME_BYTES: usize = 8 << 20;

/// Compresses into a sink what is read into its room. Nothing is whole before [`Packer::finish`].
pub(super) struct Packer<'a> {
    window: Vec<u8>,
    filled: usize,
    way: Way<'a>,
}

type Sink<'a> = &'a mut (dyn Write + Send + Sync);

enum Way<'a> {
    Zstd(Frames<'a>),
    Gzip(Box<GzEncoder<Sink<'a>>>),
    Lz4(Box<FrameEncoder<Sink<'a>>>),
}

/// One frame after the other, each from content that lies in one piece.
struct Frames<'a> {
    compressor: Compressor<'static>,
    packed: Vec<u8>,
    sink: Sink<'a>,
    any: bool,
}

impl<'a> Packer<'a> {
    pub(super) fn new(codec: Codec, sink: Sink<'a>) -> io::Result<Self> {
        let (bytes, way) = match codec {
            Codec::Zstd(level) => return Self::zstd(level, FRAME_BYTES, sink),
            Codec::Gzip(level) => (WINDOW_BYTES, Way::Gzip(Box::new(GzEncoder::new(sink, Compression::new(level))))),
            Codec::Lz4 => (WINDOW_BYTES, Way::Lz4(Box::new(FrameEncoder::new(sink)))),
        };
        Ok(Self { window: vec![0; bytes], filled: 0, way })
    }

    /// Zstandard frames of `bytes` of content each: as much is in memory twice.
    pub(super) fn zstd(level: i32, bytes: usize, sink: Sink<'a>) -> io::Result<Self> {
        let way = Way::Zstd(Frames::new(level, bytes, sink)?);
        Ok(Self { window: vec![0; bytes], filled: 0, way })
    }

    /// Where the next bytes are to be read to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let end = self.window.len().min(self.filled + WINDOW_BYTES);
        &mut self.window[self.filled..end]
    }

    /// Takes the first `count` bytes of the room.
    pub(super) fn take(&mut self, count: usize) -> io::Result<()> {
        self.filled += count;
        match &self.way {
            Way::Zstd(_) if self.filled < self.window.len() => Ok(()),
            _ => self.pack(),
        }
    }

    fn pack(&mut self) -> io::Result<()> {
        let content = &self.window[..std::mem::take(&mut self.filled)];
        match &mut self.way {
            Way::Zstd(frames) => frames.write(content),
            Way::Gzip(encoder) => encoder.write_all(content),
            Way::Lz4(encoder) => encoder.write_all(content),
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<()> {
        if self.filled > 0 {
            self.pack()?;
        }
        match self.way {
            Way::Zstd(frames) => frames.finish(),
            Way::Gzip(encoder) => encoder.finish().map(drop),
            Way::Lz4(encoder) => encoder.finish().map(drop).map_err(io::Error::other),
        }
    }
}

impl<'a> Frames<'a> {
    fn new(level: i32, bytes: usize, sink: Sink<'a>) -> io::Result<Self> {
        let packed = Vec::with_capacity(zstd::zstd_safe::compress_bound(bytes));
        Ok(Self { compressor: Compressor::new(level)?, packed, sink, any: false })
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.compressor.compress_to_buffer(content, &mut self.packed)?;
        self.any = true;
        self.sink.write_all(&self.packed)
    }

    /// What is empty is one empty frame: no frame at all would be nothing that a tool reads.
    fn finish(mut self) -> io::Result<()> {
        match self.any {
            true => Ok(()),
            false => self.write(&[]),
        }
    }
}

/// What undoes `encoding`; nothing where it is no compression.
pub(super) fn unpacker(encoding: Encoding, packed: RelayReader) -> io::Result<Option<Box<dyn Read>>> {
    Ok(match encoding {
        Encoding::Gzip => Some(Box::new(Gunzip::new(packed))),
        Encoding::Zstd => Some(Box::new(zstd::Decoder::with_buffer(packed)?)),
        Encoding::Lz4 => Some(Box::new(FrameDecoder::new(packed))),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `content` through `codec`, read in pieces of at most `piece` bytes.
    fn packed(codec: Codec, content: &[u8], piece: usize) -> Vec<u8> {
        let (mut sink, mut left) = (Vec::new(), content);
        let mut packer = Packer::new(codec, &mut sink).unwrap();
        while !left.is_empty() {
            let room = packer.room();
            let count = left.len().min(room.len()).min(piece);
            room[..count].copy_from_slice(&left[..count]);
            packer.take(count).unwrap();
            left = &left[count..];
        }
        packer.finish().unwrap();
        sink
    }

    #[test]
    fn zstd_gives_back_content_of_any_length_from_one_frame_or_several() {
        for length in [0, 1, WINDOW_BYTES, FRAME_BYTES - 1, FRAME_BYTES, 2 * FRAME_BYTES + 5] {
            let content: Vec<u8> = (0..length as u32).flat_map(|at| (at / 7).to_le_bytes()).take(length).collect();
            for piece in [100_003, usize::MAX] {
                let packed = packed(Codec::Zstd(1), &content, piece);
                assert!(length < 1000 || packed.len() < length / 2, "{length} bytes became {}", packed.len());
                assert!(zstd::decode_all(packed.as_slice()).unwrap() == content, "{length} bytes");
            }
        }
    }
}
