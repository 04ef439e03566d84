//! Binary COPY: cutting the server's messages into tuples, and tuples into fields.
//!
//! The form is the PostgreSQL manual's, "COPY", "Binary Format": a header, for each row a count of fields and then each
//! field's length (-1 for NULL) and bytes, a trailer. What the bytes of a field mean is its reader's business.

/// The stream is not the binary COPY that was asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("read a row of a binary COPY: {0}")]
pub struct Malformed(pub &'static str);

/// The file header of a binary COPY without its flags and extension.
pub(super) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// The header with flags and the length of an empty extension.
const HEADER_BYTES: usize = 19;

/// The next field, or nothing for NULL.
pub fn next_field<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, Malformed> {
    let (length, after) = rest.split_first_chunk::<4>().ok_or(Malformed("a field's length is cut off"))?;
    let length = i32::from_be_bytes(*length);
    if length == -1 {
        *rest = after;
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| Malformed("a field's length is negative"))?;
    let (field, after) = after.split_at_checked(length).ok_or(Malformed("a field is cut off"))?;
    *rest = after;
    Ok(Some(field))
}

/// The bytes of a field that has exactly `N` of them.
pub fn fixed<const N: usize>(field: Option<&[u8]>) -> Result<[u8; N], Malformed> {
    field.and_then(|field| field.try_into().ok()).ok_or(Malformed("a key column has another type, or is NULL"))
}

/// Cuts a binary COPY, given in messages, into tuples. The server sends a tuple in one message, the header with the
/// first; nothing here depends on that but speed.
#[derive(Debug, Default)]
pub struct CopyReader {
    kept: Vec<u8>,
    past_header: bool,
    ended: bool,
}

impl CopyReader {
    /// Takes one message of a COPY of `fields` columns, and gives the fields of each tuple that is complete.
    pub fn take<E: From<Malformed>>(
        &mut self,
        message: &[u8],
        fields: u16,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.kept.is_empty() {
            let used = self.cut(message, fields, &mut each)?;
            self.kept.extend_from_slice(&message[used..]);
            return Ok(());
        }
        let mut kept = std::mem::take(&mut self.kept);
        kept.extend_from_slice(message);
        let used = self.cut(&kept, fields, &mut each)?;
        kept.drain(..used);
        self.kept = kept;
        Ok(())
    }

    /// Errors unless the trailer has come and nothing after it.
    pub fn finish(&self) -> Result<(), Malformed> {
        if self.ended && self.kept.is_empty() { Ok(()) } else { Err(Malformed("it ended before its trailer")) }
    }

    /// Cuts as many tuples off `bytes` as are complete; how many bytes they took.
    fn cut<E: From<Malformed>>(
        &mut self,
        bytes: &[u8],
        fields: u16,
        each: &mut impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut at = 0;
        if !self.past_header {
            if bytes.len() < HEADER_BYTES {
                return Ok(0);
            }
            if !bytes.starts_with(SIGNATURE) || bytes[SIGNATURE.len()..HEADER_BYTES].iter().any(|byte| *byte != 0) {
                return Err(Malformed("it has another header").into());
            }
            self.past_header = true;
            at = HEADER_BYTES;
        }
        while let Some(count) = bytes[at..].first_chunk::<2>() {
            if self.ended {
                return Err(Malformed("bytes follow the trailer").into());
            }
            let count = i16::from_be_bytes(*count);
            if count == -1 {
                self.ended = true;
                at += 2;
                continue;
            }
            if u16::try_from(count) != Ok(fields) {
                return Err(Malformed("a tuple has another number of fields").into());
            }
            let Some(length) = tuple_length(&bytes[at + 2..], fields)? else { break };
            each(&bytes[at + 2..at + 2 + length])?;
            at += 2 + length;
        }
        Ok(at)
    }
}

/// Bytes of the tuple that `bytes` begin with; nothing while it is not complete.
fn tuple_length(bytes: &[u8], fields: u16) -> Result<Option<usize>, Malformed> {
    let mut at = 0_usize;
    for _ in 0..fields {
        let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) else { return Ok(None) };
        at += 4;
        match i32::from_be_bytes(*length) {
            -1 => {}
            length => at += usize::try_from(length).map_err(|_| Malformed("a field's length is negative"))?,
        }
    }
    Ok((at <= bytes.len()).then_some(at))
}
