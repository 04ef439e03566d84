//! POSIX tar as base backups use it: files and directories under their own paths, for any tar to unpack.
//!
//! Paths over 100 bytes go into a GNU long name before the member, sizes over 8 GiB into GNU's base-256 form (GNU tar
//! manual, "Basic Tar Format"; POSIX.1-1988 ustar, section 10.1.1). A path that is read back cannot lead out of the
//! directory it is unpacked into.

use std::io::{self, Read};

const RECORD: usize = 512;
const SHORT_NAME: usize = 100;
const LONGEST_NAME: u64 = 4096;
const LARGEST_OCTAL: u64 = 0o77_777_777_777;
const LONG_NAME: u8 = b'L';
const FILE: u8 = b'0';
const DIRECTORY: u8 = b'5';

/// One member of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Path, components joined by `/`, without one at the end.
    pub path: String,
    /// Bytes of content that follow; nothing for a directory.
    pub size: Option<u64>,
    /// Mode bits.
    pub mode: u32,
    /// Last change, seconds since 1970.
    pub modified: i64,
}

impl Member {
    /// The records that stand before the content.
    pub fn header(&self) -> Vec<u8> {
        let name = if self.size.is_some() { self.path.clone() } else { format!("{}/", self.path) };
        let mut bytes = Vec::new();
        if name.len() > SHORT_NAME {
            let long = Self { path: "././@LongLink".into(), size: Some(name.len() as u64 + 1), mode: 0, modified: 0 };
            bytes.extend_from_slice(&long.record(&long.path, LONG_NAME));
            bytes.extend_from_slice(name.as_bytes());
            bytes.resize(bytes.len() + 1 + padding(name.len() as u64 + 1), 0);
        }
        let kind = if self.size.is_some() { FILE } else { DIRECTORY };
        bytes.extend_from_slice(&self.record(&name, kind));
        bytes
    }

    fn record(&self, name: &str, kind: u8) -> [u8; RECORD] {
        let mut record = [0; RECORD];
        let name = &name.as_bytes()[..name.len().min(SHORT_NAME)];
        record[..name.len()].copy_from_slice(name);
        octal(&mut record[100..108], u64::from(self.mode & 0o7777));
        octal(&mut record[108..116], 0);
        octal(&mut record[116..124], 0);
        number(&mut record[124..136], self.size.unwrap_or_default());
        number(&mut record[136..148], u64::try_from(self.modified).unwrap_or_default());
        record[156] = kind;
        record[257..265].copy_from_slice(b"ustar  \0");
        let sum = checksum(&record);
        octal(&mut record[148..155], sum);
        record[155] = b' ';
        record
    }
}

/// Zeros after content of `size` bytes.
pub fn padding(size: u64) -> usize {
    let over = usize::try_from(size % RECORD as u64).unwrap_or_default();
    (RECORD - over) % RECORD
}

/// What ends an archive.
pub fn end() -> Vec<u8> {
    vec![0; 2 * RECORD]
}

/// Digits and a NUL.
fn octal(field: &mut [u8], value: u64) {
    let digits = format!("{value:0width$o}", width = field.len() - 1);
    field[..digits.len()].copy_from_slice(digits.as_bytes());
}

/// Digits where they fit, else base-256.
fn number(field: &mut [u8], value: u64) {
    if value <= LARGEST_OCTAL {
        return octal(field, value);
    }
    let at = field.len() - 8;
    field[at..].copy_from_slice(&value.to_be_bytes());
    field[0] = 0x80;
}

/// The sum over a record with its own field as spaces.
fn checksum(record: &[u8; RECORD]) -> u64 {
    let sum: u64 = record.iter().map(|byte| u64::from(*byte)).sum();
    let own: u64 = record[148..156].iter().map(|byte| u64::from(*byte)).sum();
    sum - own + 8 * u64::from(b' ')
}

/// Reads an archive as a stream.
pub struct Reader<R> {
    source: R,
    left: u64,
    padding: usize,
}

impl<R: Read> Reader<R> {
    /// Reads what `source` gives.
    pub fn new(source: R) -> Self {
        Self { source, left: 0, padding: 0 }
    }

    /// Goes on to the next member; nothing after the last. What is left of the present one is passed over.
    pub fn next_member(&mut self) -> io::Result<Option<Member>> {
        let mut name = None;
        loop {
            self.pass_over()?;
            let mut record = [0; RECORD];
            self.source.read_exact(&mut record)?;
            if record.iter().all(|byte| *byte == 0) {
                return Ok(None);
            }
            let size = self.begin(&record)?;
            match record[156] {
                LONG_NAME if size <= LONGEST_NAME => name = Some(self.long_name()?),
                kind @ (FILE | DIRECTORY) => {
                    let path = match name.take() {
                        Some(name) => name,
                        None => text(&record[..SHORT_NAME])?,
                    };
                    let path = safe(path.trim_end_matches('/'))?;
                    let mode = u32::try_from(read_number(&record[100..108])?).unwrap_or(0o600);
                    let modified = i64::try_from(read_number(&record[136..148])?).unwrap_or_default();
                    return Ok(Some(Member { path, size: (kind == FILE).then_some(size), mode, modified }));
                }
                kind => return Err(damaged(format!("a member of the kind {kind}"))),
            }
        }
    }

    /// Reads on in the content of the present member; 0 at its end.
    pub fn read_content(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let count = self.source.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive ends within a file"));
        }
        self.left -= count as u64;
        Ok(count)
    }

    /// The source, read to its end: whatever proves it whole comes after the archive's own end.
    pub fn into_source(mut self) -> io::Result<R> {
        let mut rest = [0; 4096];
        while self.source.read(&mut rest)? > 0 {}
        Ok(self.source)
    }

    fn begin(&mut self, record: &[u8; RECORD]) -> io::Result<u64> {
        if read_number(&record[148..156])? != checksum(record) {
            return Err(damaged("a header whose checksum is wrong".into()));
        }
        let size = read_number(&record[124..136])?;
        (self.left, self.padding) = (size, padding(size));
        Ok(size)
    }

    fn long_name(&mut self) -> io::Result<String> {
        let mut name = Vec::new();
        self.source.by_ref().take(self.left).read_to_end(&mut name)?;
        self.left = 0;
        text(&name)
    }

    fn pass_over(&mut self) -> io::Result<()> {
        let mut rest = self.left + self.padding as u64;
        let mut buffer = [0; 4096];
        while rest > 0 {
            let most = usize::try_from(rest).unwrap_or(usize::MAX).min(buffer.len());
            self.source.read_exact(&mut buffer[..most])?;
            rest -= most as u64;
        }
        (self.left, self.padding) = (0, 0);
        Ok(())
    }
}

/// A field up to its first NUL.
fn text(field: &[u8]) -> io::Result<String> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    String::from_utf8(field[..end].to_vec()).map_err(|_| damaged("a path that is not UTF-8".into()))
}

fn read_number(field: &[u8]) -> io::Result<u64> {
    if field[0] == 0x80 {
        return Ok(field[1..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte)));
    }
    let digits = text(field)?;
    let digits = digits.trim();
    if digits.is_empty() { Ok(0) } else { u64::from_str_radix(digits, 8).map_err(|_| damaged("a bad number".into())) }
}

/// A relative path that stays below its directory. Some archives say so in front: PostgreSQL's have one such member.
fn safe(path: &str) -> io::Result<String> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let fine = !path.is_empty()
        && !path.contains('\0')
        && path.split('/').all(|component| !matches!(component, "" | "." | ".."));
    if fine { Ok(path.to_owned()) } else { Err(damaged(format!("the path {path:?}"))) }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the archive has {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Member {
        Member { path: path.into(), size: Some(size), mode: 0o600, modified: 1_700_000_000 }
    }

    fn archive(members: &[Member]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for member in members {
            bytes.extend(member.header());
            let size = member.size.unwrap_or_default();
            bytes.extend((0..size).map(|at| (at % 251) as u8));
            bytes.resize(bytes.len() + padding(size), 0);
        }
        bytes.extend(end());
        bytes
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = format!("pg_tblspc/16400/PG_15_202209061/{}/1", "x".repeat(150));
        let members = [
            file("base/5/1249", 5000),
            Member { path: "pg_wal".into(), size: None, mode: 0o700, modified: 0 },
            file(&long, 512),
            file("empty", 0),
        ];
        let bytes = archive(&members);
        let mut reader = Reader::new(bytes.as_slice());
        for member in &members {
            assert_eq!(reader.next_member().unwrap().as_ref(), Some(member));
            let mut content = Vec::new();
            let mut buffer = [0; 333];
            loop {
                match reader.read_content(&mut buffer).unwrap() {
                    0 => break,
                    count => content.extend_from_slice(&buffer[..count]),
                }
            }
            assert_eq!(content.len() as u64, member.size.unwrap_or_default());
        }
        assert_eq!(reader.next_member().unwrap(), None);
    }

    #[test]
    fn sizes_beyond_eight_gibibytes_survive() {
        let huge = file("large", 9 << 30);
        let header = huge.header();
        assert_eq!(Reader::new(header.as_slice()).next_member().unwrap(), Some(huge));
    }

    #[test]
    fn f41_paths_that_climb_are_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", "a//b", "a/./b", "././a"] {
            let bytes = archive(&[file(path, 1)]);
            assert!(Reader::new(bytes.as_slice()).next_member().is_err(), "{path}");
        }
        let here = archive(&[file("./a/b", 1)]);
        assert_eq!(Reader::new(here.as_slice()).next_member().unwrap().unwrap().path, "a/b");
    }

    #[test]
    fn damage_is_an_error() {
        let bytes = archive(&[file("a", 4)]);
        for cut in [0, 100, 512, 514, 1024, 1100] {
            let mut reader = Reader::new(&bytes[..cut]);
            let all = |reader: &mut Reader<&[u8]>| -> io::Result<()> {
                while reader.next_member()?.is_some() {}
                Ok(())
            };
            assert!(all(&mut reader).is_err(), "cut at {cut}");
        }
        let mut wrong = bytes.clone();
        wrong[0] ^= 1;
        assert!(Reader::new(wrong.as_slice()).next_member().is_err());
    }
}
