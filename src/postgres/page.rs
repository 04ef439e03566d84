//! Pages of relation files: whether one is whole, by its checksum and its position in the log.
//!
//! The checksum is PostgreSQL's own (`storage/checksum_impl.h`): 32 sums of FNV-1a side by side over words of four
//! bytes, folded with the block number. A page may fail because it is being written while we read it; then the log that
//! a copy replays holds it whole, and its position is not before the backup's start.

use crate::model::lsn::Lsn;

/// Bytes of a page, the only size that PostgreSQL's packagers build.
pub const PAGE_BYTES: usize = 8192;

const SUMS: usize = 32;
const ROUND_BYTES: usize = SUMS * 4;
const PRIME: u32 = 16_777_619;
const CHECKSUM_AT: usize = 8;
const UPPER_AT: usize = 14;

const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// What a page is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// Its checksum agrees, or it was never used.
    Whole,
    /// Its checksum does not agree; it says that it was last changed at this position.
    Broken(Lsn),
}

/// Judges `page` (exactly [`PAGE_BYTES`]), which is block number `block` of its relation.
pub fn judge(page: &[u8], block: u32) -> Page {
    let half = |at: usize| u16::from_le_bytes([page[at], page[at + 1]]);
    if half(UPPER_AT) == 0 && page.iter().all(|byte| *byte == 0) {
        return Page::Whole;
    }
    match checksum(page, block) == half(CHECKSUM_AT) {
        true => Page::Whole,
        false => Page::Broken(changed(page)),
    }
}

/// The position in the log of the last change of `page`, by its own word (`pd_lsn`: the high half, then the low one).
pub fn changed(page: &[u8]) -> Lsn {
    let word = |at: usize| u64::from(word(&page[at..at + 4]));
    Lsn(word(0) << 32 | word(4))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u32::from(*byte))
}

fn checksum(page: &[u8], block: u32) -> u16 {
    let mut sums = OFFSETS;
    let mut rounds = page.chunks_exact(ROUND_BYTES);
    if let Some(first) = rounds.next() {
        // The checksum itself counts as zero.
        let mut head = [0; ROUND_BYTES];
        head.copy_from_slice(first);
        head[CHECKSUM_AT..CHECKSUM_AT + 2].fill(0);
        add(&mut sums, &head);
    }
    rounds.for_each(|round| add(&mut sums, round));
    add(&mut sums, &[0; ROUND_BYTES]);
    add(&mut sums, &[0; ROUND_BYTES]);
    let folded = sums.into_iter().fold(0, |folded, sum| folded ^ sum) ^ block;
    u16::try_from(folded % 65_535 + 1).unwrap_or_default()
}

#[inline(always)]
fn add(sums: &mut [u32; SUMS], round: &[u8]) {
    for (sum, bytes) in sums.iter_mut().zip(round.chunks_exact(4)) {
        let mixed = *sum ^ u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        *sum = mixed.wrapping_mul(PRIME) ^ (mixed >> 17);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page with this checksum written into it.
    fn page(block: u32) -> Vec<u8> {
        let mut page: Vec<u8> = (0..PAGE_BYTES).map(|at| (at * 7 % 251) as u8).collect();
        let sum = checksum(&page, block);
        page[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_le_bytes());
        page
    }

    #[test]
    fn a_page_is_whole_in_its_own_place_only() {
        assert_eq!(judge(&page(7), 7), Page::Whole);
        assert!(matches!(judge(&page(7), 8), Page::Broken(_)));
        assert_eq!(judge(&[0; PAGE_BYTES], 3), Page::Whole, "never used");
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let whole = page(1);
        for at in (0..PAGE_BYTES).step_by(13) {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            assert!(matches!(judge(&flipped, 1), Page::Broken(_)), "byte {at}");
        }
    }

    #[test]
    fn a_broken_page_tells_when_it_was_changed() {
        let mut broken = page(1);
        broken[..8].copy_from_slice(&[0x16, 0, 0, 0, 0x48, 0xD8, 0x74, 0xB3]);
        assert_eq!(judge(&broken, 1), Page::Broken("16/B374D848".parse().unwrap()));
    }
}
