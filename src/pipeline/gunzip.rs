//! Reads gzip: members that tell their length are taken whole, which is several times as fast; all others as a stream.
//!
//! Nothing is allocated on a member's word beyond the size of our own members; one that claims more goes the other way,
//! which needs no such claim. Anything but members to the very end is an error.

use std::io::{self, BufRead, Cursor, Read};

use flate2::bufread::MultiGzDecoder;
use libdeflater::Decompressor;

use super::gzip::MEMBER_BYTES;
use super::member::{self, HEADER_BYTES};

/// Longest member taken whole: ours, were its content not compressible at all.
const LONGEST_MEMBER: usize = MEMBER_BYTES + MEMBER_BYTES / 8;

type Rest<R> = MultiGzDecoder<io::Chain<Cursor<Vec<u8>>, R>>;

pub(super) struct Gunzip<R: BufRead> {
    way: Way<R>,
    packed: Vec<u8>,
    content: Vec<u8>,
    given: usize,
}

enum Way<R: BufRead> {
    Members(R, Decompressor),
    Stream(Box<Rest<R>>),
    Ended,
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(source: R) -> Self {
        Self { way: Way::Members(source, Decompressor::new()), packed: Vec::new(), content: Vec::new(), given: 0 }
    }

    /// Reads on until there is content to give or the end.
    fn advance(&mut self) -> io::Result<()> {
        let Way::Members(mut source, mut decompressor) = std::mem::replace(&mut self.way, Way::Ended) else {
            return Ok(());
        };
        self.packed.clear();
        source.by_ref().take(HEADER_BYTES as u64).read_to_end(&mut self.packed)?;
        if self.packed.is_empty() {
            return Ok(());
        }
        if let Some(length) = member::length(&self.packed).filter(|length| *length <= LONGEST_MEMBER) {
            source.by_ref().take((length - HEADER_BYTES) as u64).read_to_end(&mut self.packed)?;
            let size = member::content_size(&self.packed).filter(|size| *size <= MEMBER_BYTES);
            if let (true, Some(size)) = (self.packed.len() == length, size) {
                unpack(&mut decompressor, &self.packed, &mut self.content, size)?;
                self.given = 0;
                self.way = Way::Members(source, decompressor);
                return Ok(());
            }
        }
        let packed = std::mem::take(&mut self.packed);
        self.way = Way::Stream(Box::new(MultiGzDecoder::new(Cursor::new(packed).chain(source))));
        Ok(())
    }
}

/// Errors when the member is not what its checksum says.
fn unpack(decompressor: &mut Decompressor, packed: &[u8], content: &mut Vec<u8>, size: usize) -> io::Result<()> {
    content.resize(size, 0);
    let damaged = |what: String| io::Error::new(io::ErrorKind::InvalidData, format!("the gzip member: {what}"));
    match decompressor.gzip_decompress(packed, content) {
        Ok(written) if written == size => Ok(()),
        Ok(written) => Err(damaged(format!("it has {written} of {size} bytes"))),
        Err(error) => Err(damaged(error.to_string())),
    }
}

impl<R: BufRead> Read for Gunzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.given < self.content.len() {
                let count = buffer.len().min(self.content.len() - self.given);
                buffer[..count].copy_from_slice(&self.content[self.given..self.given + count]);
                self.given += count;
                return Ok(count);
            }
            match &mut self.way {
                Way::Stream(rest) => return rest.read(buffer),
                Way::Ended => return Ok(0),
                Way::Members(..) => self.advance()?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use flate2::write::GzEncoder;

    use super::Gunzip;
    use crate::pipeline::deflate::{Encoder, Level};
    use crate::pipeline::member;

    fn told(content: &[u8]) -> Vec<u8> {
        let mut encoder = Encoder::new(Level::default());
        let mut output = vec![0; member::bound(&mut encoder, content.len())];
        let length = member::write(&mut encoder, 1, content, &mut output).unwrap();
        output.truncate(length);
        output
    }

    fn stock(content: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn read(packed: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Gunzip::new(std::io::BufReader::with_capacity(7, packed)).read_to_end(&mut content)?;
        Ok(content)
    }

    #[test]
    fn members_with_and_without_a_length_follow_one_another_in_any_order() {
        for order in ["ttss", "stst", "sstt", "tsts", "t", "s"] {
            let mut packed = Vec::new();
            let mut content = Vec::new();
            for (index, kind) in order.bytes().enumerate() {
                let text = format!("member {index} of {order}\n").repeat(index * 1000 + 1).into_bytes();
                packed.extend(if kind == b't' { told(&text) } else { stock(&text) });
                content.extend(text);
            }
            assert_eq!(read(&packed).unwrap(), content, "{order}");
        }
        assert_eq!(read(&told(b"")).unwrap(), b"");
    }

    #[test]
    fn f53_a_member_that_is_cut_changed_or_followed_by_rubbish_is_an_error() {
        let whole = [told(&b"first row\n".repeat(500)), told(b"second row\n")].concat();
        let first = told(&b"first row\n".repeat(500)).len();
        for end in (1..whole.len()).filter(|end| *end != first) {
            assert!(read(&whole[..end]).is_err(), "cut at {end}");
        }
        // Of the header, the time, level and system bytes mean nothing.
        let meaningless = |at: usize| (4..10).contains(&at) || (first + 4..first + 10).contains(&at);
        for at in (0..whole.len()).filter(|at| !meaningless(*at)) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            let same = read(&changed).ok().is_some_and(|content| content != read(&whole).unwrap());
            assert!(!same, "byte {at} changed the content unseen");
        }
        assert!(read(&[whole.as_slice(), b"rubbish"].concat()).is_err());
        assert!(read(&[whole.as_slice(), &[0; 64]].concat()).is_err());
    }

    #[test]
    fn f42_a_members_word_about_its_size_is_not_believed() {
        let mut lying = told(b"a few bytes");
        let at = lying.len() - 4;
        lying[at..].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(read(&lying).is_err());
        lying[at..].copy_from_slice(&1000_u32.to_le_bytes());
        assert!(read(&lying).is_err());
        let mut long = told(b"a few bytes");
        long[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(read(&long).unwrap(), b"a few bytes", "a length beyond ours is left to the stream's own end");
    }
}
