//! Compressing and decompressing one stream on one thread: Zstandard, gzip or LZ4, in the forms stock tools read.

use std::fmt;
use std::io::{self, Read, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use lz4_flex::frame::{FrameDecoder, FrameEncoder};

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

/// Compresses what is written to it into a sink. Nothing is whole before [`Packer::finish`].
pub(super) enum Packer<'a> {
    Zstd(zstd::Encoder<'static, &'a mut (dyn Write + Send + Sync)>),
    Gzip(GzEncoder<&'a mut (dyn Write + Send + Sync)>),
    Lz4(Box<FrameEncoder<&'a mut (dyn Write + Send + Sync)>>),
}

impl<'a> Packer<'a> {
    pub(super) fn new(codec: Codec, sink: &'a mut (dyn Write + Send + Sync)) -> io::Result<Self> {
        Ok(match codec {
            Codec::Zstd(level) => Self::Zstd(zstd::Encoder::new(sink, level)?),
            Codec::Gzip(level) => Self::Gzip(GzEncoder::new(sink, Compression::new(level))),
            Codec::Lz4 => Self::Lz4(Box::new(FrameEncoder::new(sink))),
        })
    }

    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.write_all(bytes),
            Self::Gzip(encoder) => encoder.write_all(bytes),
            Self::Lz4(encoder) => encoder.write_all(bytes),
        }
    }

    /// Ends the stream.
    pub(super) fn finish(self) -> io::Result<()> {
        match self {
            Self::Zstd(encoder) => encoder.finish().map(drop),
            Self::Gzip(encoder) => encoder.finish().map(drop),
            Self::Lz4(encoder) => encoder.finish().map(drop).map_err(io::Error::other),
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
