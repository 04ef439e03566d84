//! One gzip member (RFC 1952) that tells its own length.
//!
//! The length stands in an extra field, as in BGZF: every gunzip passes over it, and a reader that knows it takes the
//! member whole, without looking for its end.

use libdeflater::crc32;

use super::deflate::{Encoder, NoRoom};

/// Fixed header, length of the extra field, and the one subfield in it.
pub(super) const HEADER_BYTES: usize = 10 + 2 + SUBFIELD.len() + 4;
const TRAILER_BYTES: usize = 8;

/// Magic, deflate, flag FEXTRA, no time, no level, system unknown.
const FIXED: [u8; 10] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255];
/// Length of the extra field; the subfield's two letters (`dL`) and its length: one number of four bytes.
const SUBFIELD: [u8; 4] = [b'd', b'L', 4, 0];
const EXTRA_LENGTH: [u8; 2] = [8, 0];

/// Bytes that a member of `content_bytes` has at most.
pub(super) fn bound(encoder: &mut Encoder, content_bytes: usize) -> usize {
    HEADER_BYTES + encoder.bound(content_bytes) + TRAILER_BYTES
}

/// Writes `content` (less than 4 GiB), block number `block` of its stream, as a member to the front of `output`; answers
/// its length.
pub(super) fn write(encoder: &mut Encoder, block: usize, content: &[u8], output: &mut [u8]) -> Result<usize, NoRoom> {
    let (header, rest) = output.split_at_mut_checked(HEADER_BYTES).ok_or(NoRoom)?;
    let deflated = encoder.deflate(block, content, rest)?;
    let trailer = rest.get_mut(deflated..deflated + TRAILER_BYTES).ok_or(NoRoom)?;
    let size = u32::try_from(content.len()).map_err(|_| NoRoom)?;
    trailer[..4].copy_from_slice(&crc32(content).to_le_bytes());
    trailer[4..].copy_from_slice(&size.to_le_bytes());
    let length = HEADER_BYTES + deflated + TRAILER_BYTES;
    let told = u32::try_from(length).map_err(|_| NoRoom)?;
    header[..10].copy_from_slice(&FIXED);
    header[10..12].copy_from_slice(&EXTRA_LENGTH);
    header[12..16].copy_from_slice(&SUBFIELD);
    header[16..].copy_from_slice(&told.to_le_bytes());
    Ok(length)
}

/// The whole length of the member that begins with `header`; nothing when it does not tell.
pub(super) fn length(header: &[u8]) -> Option<usize> {
    let told = header.get(..HEADER_BYTES)?;
    let ours = told[..4] == FIXED[..4] && told[10..12] == EXTRA_LENGTH && told[12..16] == SUBFIELD;
    let length = u32::from_le_bytes([told[16], told[17], told[18], told[19]]);
    let length = usize::try_from(length).ok()?;
    (ours && length >= HEADER_BYTES + TRAILER_BYTES).then_some(length)
}

/// The size that a whole member says its content has.
pub(super) fn content_size(member: &[u8]) -> Option<usize> {
    let size = member.last_chunk::<4>()?;
    usize::try_from(u32::from_le_bytes(*size)).ok()
}
