//! POSIX tar as increments use it: numbered members of at most 8 MiB, written and read as a stream.
//!
//! A member's name is `<number>.<schema.table>.copy` or `….keys`; whatever is not plain in a name is percent-encoded
//! (RFC 3986), so that no name can lead out of a directory or break a listing. Names over 100 bytes go into a GNU long
//! name before the member, which GNU tar and bsdtar read (POSIX.1-1988 ustar, section 10.1.1; GNU tar manual, "Basic Tar
//! Format"). The bytes of a table's members, joined in the order of their numbers, are COPY text.

use std::io::{self, Read};

use crate::model::table::QualifiedTable;

/// Most bytes of content in one member.
pub const MEMBER_LIMIT: usize = 8 << 20;

const RECORD: usize = 512;
const LONGEST_SHORT_NAME: usize = 100;
/// Two names of 63 bytes, each byte percent-encoded, and what stands around them.
const LONGEST_NAME: u64 = 512;
const LONG_NAME: u8 = b'L';
const FILE: u8 = b'0';

/// What a member holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    /// Rows.
    Rows,
    /// Keys that are there, of the marked buckets.
    Keys,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number, from 1.
    pub number: u64,
    /// The table it belongs to.
    pub table: QualifiedTable,
    /// What it holds.
    pub content: Content,
}

impl Member {
    /// Its name in the archive.
    pub fn name(&self) -> String {
        let ending = match self.content {
            Content::Rows => "copy",
            Content::Keys => "keys",
        };
        format!("{:08}.{}.{}.{ending}", self.number, encode(&self.table.schema), encode(&self.table.name))
    }

    /// Reads a name.
    pub fn of_name(name: &str) -> Option<Self> {
        let mut parts = name.split('.');
        let number = parts.next()?.parse().ok()?;
        let table = QualifiedTable::new(decode(parts.next()?)?, decode(parts.next()?)?);
        let content = match (parts.next()?, parts.next()) {
            ("copy", None) => Content::Rows,
            ("keys", None) => Content::Keys,
            _ => return None,
        };
        Some(Self { number, table, content })
    }

    /// The records that stand before `size` bytes of content.
    pub fn header(&self, size: usize) -> Vec<u8> {
        let name = self.name();
        let mut bytes = Vec::new();
        if name.len() > LONGEST_SHORT_NAME {
            bytes.extend_from_slice(&record("././@LongLink", name.len() + 1, LONG_NAME));
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(bytes.len() + 1 + padding(name.len() + 1), 0);
        }
        bytes.extend_from_slice(&record(&name[..name.len().min(LONGEST_SHORT_NAME)], size, FILE));
        bytes
    }
}

/// Zeros after content of `size` bytes.
pub fn padding(size: usize) -> usize {
    size.next_multiple_of(RECORD) - size
}

/// What ends an archive.
pub fn end() -> Vec<u8> {
    vec![0; 2 * RECORD]
}

fn record(name: &str, size: usize, kind: u8) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    let mut put = |at: usize, bytes: &[u8]| record[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000600\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    let sum: u32 = record.iter().map(|byte| u32::from(*byte)).sum();
    record[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    record
}

fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let encoded = name.bytes().map(|byte| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    });
    encoded.collect()
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, next)) = rest.split_first() {
        rest = next;
        let byte = match first {
            b'%' => {
                let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
                rest = &rest[2..];
                u8::from_str_radix(digits, 16).ok()?
            }
            plain => *plain,
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).ok()
}

/// Reads an archive from a stream, member after member.
pub struct TarReader<R> {
    source: R,
    left: u64,
    padding: u64,
    last: u64,
}

impl<R: Read> TarReader<R> {
    /// Reads from `source`.
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0, last: 0 }
    }

    /// The next member, whose content is then read with [`TarReader::read_content`]; nothing at the archive's end. What is
    /// left of the member before is passed over.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let skipped = self.left + self.padding;
        if io::copy(&mut (&mut self.source).take(skipped), &mut io::sink())? < skipped {
            return Err(corrupt("it ends in a member"));
        }
        (self.left, self.padding) = (0, 0);
        let Some((mut kind, mut name, mut size)) = self.header()? else { return Ok(None) };
        if kind == LONG_NAME {
            name = self.long_name(size)?;
            let Some(header) = self.header()? else { return Err(corrupt("a long name belongs to no member")) };
            (kind, _, size) = header;
        }
        if kind != FILE {
            return Err(corrupt("a member is no file"));
        }
        let member = Member::of_name(&name).filter(|member| member.number == self.last + 1);
        let member = member.ok_or_else(|| corrupt("a member's name is not the next of an increment"))?;
        (self.left, self.last) = (size, member.number);
        self.padding = size.next_multiple_of(RECORD as u64) - size;
        Ok(Some(member))
    }

    /// Reads some of the present member's content; 0 at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(corrupt("it ends in a member"));
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// The stream, to be ended; what follows the archive's end is read first.
    pub fn into_source(mut self) -> io::Result<R> {
        io::copy(&mut self.source, &mut io::sink())?;
        Ok(self.source)
    }

    fn header(&mut self) -> io::Result<Option<(u8, String, u64)>> {
        let mut bytes = [0; RECORD];
        self.source.read_exact(&mut bytes)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let sum: u32 = bytes
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
            .sum();
        if octal(&bytes[148..156]) != Some(u64::from(sum)) {
            return Err(corrupt("a header's checksum is wrong"));
        }
        let name = bytes[..LONGEST_SHORT_NAME].split(|byte| *byte == 0).next().unwrap_or_default();
        let size = octal(&bytes[124..136]).ok_or_else(|| corrupt("a member has no size"))?;
        Ok(Some((bytes[156], String::from_utf8_lossy(name).into_owned(), size)))
    }

    fn long_name(&mut self, size: u64) -> io::Result<String> {
        if size > LONGEST_NAME {
            return Err(corrupt("a name is too long to be one"));
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or_default().next_multiple_of(RECORD)];
        self.source.read_exact(&mut bytes)?;
        let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        Ok(String::from_utf8_lossy(name).into_owned())
    }
}

fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(|c| c == '\0' || c == ' '), 8).ok()
}

fn corrupt(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("read the increment's archive: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(members: &[(QualifiedTable, Content, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, (table, content, rows)) in members.iter().enumerate() {
            let member = Member { number: at as u64 + 1, table: table.clone(), content: *content };
            bytes.extend(member.header(rows.len()));
            bytes.extend_from_slice(rows);
            bytes.resize(bytes.len() + padding(rows.len()), 0);
        }
        bytes.extend(end());
        bytes
    }

    fn names() -> Vec<QualifiedTable> {
        let awful = "\u{1F980}\"; DROP TABLE x; --/../a\nb";
        ["users", "-rf", "a/b", "..", "%41", awful, &"ü".repeat(31), &"/".repeat(63)]
            .map(|name| QualifiedTable::new("s p.é", name))
            .to_vec()
    }

    #[test]
    fn f81_every_name_comes_back_and_leads_nowhere() {
        for table in names() {
            let member = Member { number: 7, table, content: Content::Keys };
            let name = member.name();
            assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/'), "{name}");
            assert_eq!(Member::of_name(&name), Some(member));
        }
        for other in ["", "1.a.b", "x.a.b.copy", "1.a.b.copy.x", "1.a%4.b.copy", "1.a%zz.b.copy"] {
            assert_eq!(Member::of_name(other), None, "{other}");
        }
    }

    #[test]
    fn what_is_written_is_read_by_us_and_by_tar() {
        let rows: Vec<u8> = (0..3000).map(|n| b'a' + (n % 26) as u8).collect();
        let members: Vec<_> = names().into_iter().map(|table| (table, Content::Rows, rows.as_slice())).collect();
        let bytes = archive(&members);
        let mut reader = TarReader::new(bytes.as_slice());
        for (table, ..) in &members {
            assert_eq!(reader.next_member().unwrap().unwrap().table, *table);
            let mut content = vec![0; 5000];
            let mut size = 0;
            loop {
                match reader.read_content(&mut content[size..]).unwrap() {
                    0 => break,
                    count => size += count,
                }
            }
            assert_eq!(&content[..size], rows);
        }
        assert!(reader.next_member().unwrap().is_none());
        assert!(reader.into_source().unwrap().is_empty());
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = archive(&[(QualifiedTable::new("a", "b"), Content::Rows, b"row\n")]);
        let all = |bytes: &[u8]| -> io::Result<()> {
            let mut reader = TarReader::new(bytes);
            while reader.next_member()?.is_some() {}
            Ok(())
        };
        assert!(all(&bytes).is_ok());
        for cut in [0, 100, 512, 515, 1024, 1500] {
            assert!(all(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        let mut wrong = bytes.clone();
        wrong[3] ^= 1;
        assert!(all(&wrong).is_err());
    }
}
