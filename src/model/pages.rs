//! The head of a file of which an incremental base backup holds only some pages.
//!
//! Such a member of a part's archive lies below [`FOLDER`], under the file's own path; after this head come the pages, in
//! the order of their numbers. Little-endian: the magic `DBAGPAG1`, the page size (4 bytes), the number of pages (4), the
//! size of the whole file (8), then each page's number in the file (4).

/// The folder of an archive that holds such members. No part of a data directory.
pub const FOLDER: &str = "dbagent.pages";

/// Bytes of the head before the numbers.
pub const FIXED_BYTES: usize = 24;

const MAGIC: &[u8; 8] = b"DBAGPAG1";

/// Pages in a file of PostgreSQL's, at most: 1 GiB of 8 KiB, or what a build with larger segments has.
const MOST_PAGES: u32 = 1 << 24;

/// What the head says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageHead {
    /// Bytes of a page.
    pub page_bytes: u32,
    /// Bytes of the whole file.
    pub size: u64,
    /// How many pages follow.
    pub count: u32,
}

impl PageHead {
    /// The head of a file of `size` bytes, followed by the numbers of the `pages` that are there.
    pub fn bytes(page_bytes: u32, size: u64, pages: &[u32]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(page_bytes.to_le_bytes());
        bytes.extend(u32::try_from(pages.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend(size.to_le_bytes());
        pages.iter().for_each(|page| bytes.extend(page.to_le_bytes()));
        bytes
    }

    /// Bytes of such a member with `count` pages.
    pub fn member_bytes(page_bytes: u32, count: usize) -> u64 {
        FIXED_BYTES as u64 + count as u64 * (4 + u64::from(page_bytes))
    }

    /// Reads the first [`FIXED_BYTES`]; nothing when they are no such head.
    pub fn parse(bytes: &[u8; FIXED_BYTES]) -> Option<Self> {
        let word = |at: usize| bytes[at..].first_chunk().map(|bytes| u32::from_le_bytes(*bytes));
        let size = bytes[16..].first_chunk().map(|bytes| u64::from_le_bytes(*bytes))?;
        let (page_bytes, count) = (word(8)?, word(12)?);
        let fits = page_bytes.is_power_of_two() && page_bytes <= 32 << 10 && count <= MOST_PAGES;
        let within = u64::from(count) * u64::from(page_bytes) <= size;
        (bytes.starts_with(MAGIC) && fits && within).then_some(Self { page_bytes, size, count })
    }

    /// The numbers that follow the head, from their bytes; nothing unless they ascend within the file.
    pub fn pages(&self, bytes: &[u8]) -> Option<Vec<u32>> {
        let (words, rest) = bytes.as_chunks::<4>();
        let pages: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let whole = rest.is_empty() && pages.len() == self.count as usize && pages.is_sorted_by(|a, b| a < b);
        let ends = pages.last().is_none_or(|last| (u64::from(*last) + 1) * u64::from(self.page_bytes) <= self.size);
        (whole && ends).then_some(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_reads_back_and_a_wrong_one_is_refused() {
        let bytes = PageHead::bytes(8192, 81_920, &[0, 3, 9]);
        assert_eq!(bytes.len() as u64 + 3 * 8192, PageHead::member_bytes(8192, 3));
        let fixed: [u8; FIXED_BYTES] = bytes[..FIXED_BYTES].try_into().unwrap();
        let head = PageHead::parse(&fixed).unwrap();
        assert_eq!(head, PageHead { page_bytes: 8192, size: 81_920, count: 3 });
        assert_eq!(head.pages(&bytes[FIXED_BYTES..]), Some(vec![0, 3, 9]));
        for wrong in [&[0_u32, 3, 10][..], &[3, 0, 9], &[0, 3], &[0, 3, 3]] {
            let bytes: Vec<u8> = wrong.iter().flat_map(|page| page.to_le_bytes()).collect();
            assert_eq!(head.pages(&bytes), None, "{wrong:?}");
        }
        assert!(PageHead::parse(&[0; FIXED_BYTES]).is_none());
        for at in [0, 9, 15, 17] {
            let mut wrong = fixed;
            wrong[at] ^= 0xFF;
            assert!(PageHead::parse(&wrong).is_none_or(|head| head.size != 81_920), "byte {at}");
        }
    }

    #[test]
    fn the_form_is_that_of_its_first_release() {
        let text: String = PageHead::bytes(8192, 16_384, &[1]).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, "4442414750414731002000000100000000400000000000000100 0000".replace(' ', ""));
    }
}
