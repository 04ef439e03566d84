//! How large the parts of an object must be so that it never needs more of them than the store takes.
//!
//! Parts have the configured size while the stream allows. A known expectation is met with half of the parts. Beyond
//! it each part is at least [`GROWTH`]/limit of everything before it, so the object can still grow e^(GROWTH/2) = 24
//! times over the expectation; without one, 10,000 parts that begin at 16 MiB reach 5 TiB (the first 24 GiB with parts
//! of 16 MiB). Parts in flight times part size is 2 x 16 MiB up to an expected 78 GiB, 2 x 210 MiB for 1 TiB, 2 x 1.1 GiB for
//! 5 TiB; what is beyond 16 MiB waits in files (see [`super::part`]).

/// (1/GROWTH) e^(GROWTH - 1) parts of the first size are reached: 34,600 per 1,000 parts.
const GROWTH: f64 = 6.4;
const MIB: u64 = 1 << 20;
/// S3's limits for one part ("Amazon S3 multipart upload limits").
const LEAST: u64 = 5 * MIB;
const MOST: u64 = 5 << 30;

/// The plan for one object's parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartSizes {
    base: u64,
    most_parts: u32,
    expected: u64,
}

impl PartSizes {
    /// A plan for an object of about `expected` bytes; nothing when no plan could hold it.
    pub(super) fn plan(part_size: u64, most_parts: u32, expected: Option<u64>) -> Option<Self> {
        let expected = expected.unwrap_or(0);
        let for_expected = (2 * expected).div_ceil(u64::from(most_parts.max(1)));
        let base = part_size.max(for_expected).max(LEAST).next_multiple_of(MIB);
        (base <= MOST).then_some(Self { base, most_parts, expected })
    }

    /// Size of part `number` (from 1) after `sent` bytes; nothing when the store takes no more parts.
    pub(super) fn size(&self, number: u32, sent: u64) -> Option<u64> {
        if number > self.most_parts {
            return None;
        }
        let share = (sent as f64 * GROWTH / f64::from(self.most_parts)) as u64;
        let grown = if sent < self.expected { self.base } else { self.base.max(share) };
        Some(grown.next_multiple_of(MIB).min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that fit, and the number of parts of the first size.
    fn reach(plan: PartSizes) -> (u64, u32) {
        let (mut sent, mut plain) = (0, 0);
        for number in 1..=plan.most_parts {
            let size = plan.size(number, sent).unwrap();
            plain += u32::from(size == plan.base);
            sent += size;
        }
        assert_eq!(plan.size(plan.most_parts + 1, sent), None);
        (sent, plain)
    }

    #[test]
    fn f34_an_endless_stream_reaches_five_tebibytes_in_ten_thousand_parts() {
        let (bytes, plain) = reach(PartSizes::plan(16 * MIB, 10_000, None).unwrap());
        assert!(bytes >= 5 << 40, "{bytes}");
        assert!(plain >= 1500, "{plain}");
        let (bytes, _) = reach(PartSizes::plan(16 * MIB, 1000, None).unwrap());
        assert!(bytes >= 500 << 30, "{bytes}");
    }

    #[test]
    fn f34_an_expectation_is_met_with_half_of_the_parts_and_may_be_far_off() {
        for expected in [0, 1, 100 * MIB, 80 << 30, 1 << 40, 5 << 40] {
            let plan = PartSizes::plan(16 * MIB, 10_000, Some(expected)).unwrap();
            assert!(plan.base * 5000 >= expected);
            let (bytes, _) = reach(plan);
            assert!(bytes >= (20 * expected).min(16 << 40), "{expected}: only {bytes}");
        }
        assert_eq!(PartSizes::plan(16 * MIB, 10_000, Some(78 << 30)).unwrap().size(1, 0), Some(16 * MIB));
        assert!(PartSizes::plan(16 * MIB, 10_000, Some(50 << 40)).is_none());
    }

    #[test]
    fn f34_five_tebibytes_need_no_more_disk_than_two_parts_and_those_are_bounded() {
        for (expected, most) in [(None, 2 * MOST), (Some(1 << 40), 8 << 30), (Some(5 << 40), 3 << 30)] {
            let plan = PartSizes::plan(16 * MIB, 10_000, expected).unwrap();
            let (mut sent, mut waiting) = (0, 0);
            for number in 1..=plan.most_parts {
                let size = plan.size(number, sent).unwrap();
                waiting = waiting.max(2 * size);
                sent += size;
                if sent >= 5 << 40 {
                    break;
                }
            }
            assert!(sent >= 5 << 40 && waiting <= most, "{expected:?}: {sent} with {waiting} waiting");
        }
    }

    #[test]
    fn f34_no_part_but_the_last_is_smaller_than_the_store_takes() {
        assert_eq!(PartSizes::plan(1, 10_000, None).unwrap().size(1, 0), Some(5 * MIB));
    }
}
