//! COPY text: the fields of a row, a row's key, and rows out of what PostgreSQL prints of a record.
//!
//! A row is a line without its end, its fields joined by tabs (PostgreSQL manual, COPY, "Text Format"). A key is the text
//! of its fields joined the same way, so that it is the same whether it was cut from a row of a dump or selected by
//! itself. A record prints the same field texts in another wrapping (src/backend/utils/adt/rowtypes.c, record_out), which
//! is how one column carries a whole row for the changed rows of a scan and nothing for the others.

use memchr::{memchr, memchr_iter};

/// What COPY writes for NULL.
pub const NULL: &[u8] = b"\\N";

/// A text that is not what PostgreSQL writes for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a changed row: it is not the text of a record")]
pub struct NotARecord;

/// The key of `row`: the fields at `positions` (from 0, in the key's order), joined by tabs. `scratch` is used when they do
/// not stand together. Nothing when the row has fewer fields.
pub fn key_of<'a>(row: &'a [u8], positions: &[usize], scratch: &'a mut Vec<u8>) -> Option<&'a [u8]> {
    let (first, last) = (*positions.first()?, *positions.last()?);
    let in_order = positions.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    if in_order {
        let start = if first == 0 { 0 } else { memchr_iter(b'\t', row).nth(first - 1)? + 1 };
        let rest = &row[start..];
        let end = memchr_iter(b'\t', rest).nth(last - first);
        let fields = memchr_iter(b'\t', rest).take(last - first).count();
        return (fields == last - first).then(|| &rest[..end.unwrap_or(rest.len())]);
    }
    scratch.clear();
    for (at, position) in positions.iter().enumerate() {
        if at > 0 {
            scratch.push(b'\t');
        }
        scratch.extend_from_slice(row.split(|byte| *byte == b'\t').nth(*position)?);
    }
    Some(scratch)
}

/// Splits `line` after its first `fields` fields: the key in front, and the rest without the tab between them.
pub fn split_after(line: &[u8], fields: usize) -> Option<(&[u8], &[u8])> {
    let end = memchr_iter(b'\t', line).nth(fields.checked_sub(1)?)?;
    Some((&line[..end], &line[end + 1..]))
}

/// Turns the text of a record into the row that COPY would have written of its fields; appends it to `row`.
pub fn row_of_record(record: &[u8], row: &mut Vec<u8>) -> Result<(), NotARecord> {
    let fields = record.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")")).ok_or(NotARecord)?;
    let (mut rest, mut begun) = (fields, false);
    loop {
        if begun {
            row.push(b'\t');
        }
        begun = true;
        rest = field(rest, row)?;
        match rest.split_first() {
            None => return Ok(()),
            Some((b',', next)) => rest = next,
            Some(_) => return Err(NotARecord),
        }
    }
}

/// Takes one field from the front of a record's inside; gives what follows it.
fn field<'a>(text: &'a [u8], row: &mut Vec<u8>) -> Result<&'a [u8], NotARecord> {
    if text.first() != Some(&b'"') {
        let end = memchr(b',', text).unwrap_or(text.len());
        if end == 0 {
            row.extend_from_slice(NULL);
        } else {
            escape(&text[..end], row);
        }
        return Ok(&text[end..]);
    }
    let mut at = 1;
    loop {
        let end = at + memchr::memchr2(b'"', b'\\', &text[at..]).ok_or(NotARecord)?;
        escape(&text[at..end], row);
        let next = text.get(end + 1);
        match (text[end], next) {
            (b'"', Some(b'"')) => row.push(b'"'),
            (b'\\', Some(b'\\')) => row.extend_from_slice(b"\\\\"),
            (b'"', _) => return Ok(&text[end + 1..]),
            _ => return Err(NotARecord),
        }
        at = end + 2;
    }
}

/// The letter that COPY writes after a backslash for `byte` (src/backend/commands/copyto.c, CopyAttributeOutText).
fn letter(byte: u8) -> Option<u8> {
    Some(match byte {
        8 => b'b',
        9 => b't',
        10 => b'n',
        11 => b'v',
        12 => b'f',
        13 => b'r',
        b'\\' => b'\\',
        _ => return None,
    })
}

/// Appends `text` to `row` as COPY writes it.
pub fn escape(text: &[u8], row: &mut Vec<u8>) {
    let mut from = 0;
    for (at, byte) in text.iter().enumerate() {
        if let Some(letter) = letter(*byte) {
            row.extend_from_slice(&text[from..at]);
            row.extend_from_slice(&[b'\\', letter]);
            from = at + 1;
        }
    }
    row.extend_from_slice(&text[from..]);
}

/// Appends to `plain` what COPY wrote as `text`.
pub fn unescape(text: &[u8], plain: &mut Vec<u8>) -> Result<(), NotARecord> {
    plain.reserve(text.len());
    let mut rest = text;
    while let Some(at) = memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        let byte = match rest.get(at + 1).ok_or(NotARecord)? {
            b'b' => 8,
            b't' => 9,
            b'n' => 10,
            b'v' => 11,
            b'f' => 12,
            b'r' => 13,
            b'\\' => b'\\',
            _ => return Err(NotARecord),
        };
        plain.push(byte);
        rest = &rest[at + 2..];
    }
    plain.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(row: &str, positions: &[usize]) -> Option<String> {
        key_of(row.as_bytes(), positions, &mut Vec::new()).map(|key| String::from_utf8(key.to_vec()).unwrap())
    }

    #[test]
    fn a_key_is_cut_from_anywhere_in_a_row() {
        assert_eq!(key("a\tb\tc", &[0]).unwrap(), "a");
        assert_eq!(key("a\tb\tc", &[2]).unwrap(), "c");
        assert_eq!(key("a\tb\tc", &[1, 2]).unwrap(), "b\tc");
        assert_eq!(key("a\tb\tc", &[0, 1]).unwrap(), "a\tb");
        assert_eq!(key("a\tb\tc", &[2, 0]).unwrap(), "c\ta");
        assert_eq!(key("a", &[0]).unwrap(), "a");
        assert_eq!(key("a\tb", &[2]), None);
        assert_eq!(key("a\tb", &[1, 2]), None);
        assert_eq!(split_after(b"a\tb\t\\N", 2).unwrap(), (&b"a\tb"[..], &b"\\N"[..]));
        assert_eq!(split_after(b"a\tb", 2), None);
    }

    #[test]
    fn a_record_becomes_the_row_that_copy_writes() {
        let row = |record: &[u8]| {
            let (mut escaped, mut plain) = (Vec::new(), Vec::new());
            escape(record, &mut escaped);
            unescape(&escaped, &mut plain).unwrap();
            assert_eq!(plain, record);
            let mut row = Vec::new();
            row_of_record(record, &mut row).map(|()| row)
        };
        assert_eq!(row(br#"(1,abc,,"")"#).unwrap(), b"1\tabc\t\\N\t");
        assert_eq!(row(b"()").unwrap(), b"\\N");
        assert_eq!(row(b"(\"a b\",\"x,\"\"y\"\"\",\"\\\\x00\")").unwrap(), b"a b\tx,\"y\"\t\\\\x00");
        assert_eq!(row(b"(\"tab\there\",\"line\nend\",\"\\\\N\")").unwrap(), b"tab\\there\tline\\nend\t\\\\N");
        for wrong in [&b"1,2"[..], b"(1", b"(\"1)", b"(\"a\"b)", b"(\"a\\b\")"] {
            assert!(row(wrong).is_err(), "{wrong:?} was taken");
        }
    }
}
