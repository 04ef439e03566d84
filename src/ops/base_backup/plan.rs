//! Which files go into which part: pure, over what two walks show.
//!
//! A first walk finds the large files: each is a part of its own, the largest first. A second one bundles the others. The
//! less there is to copy, the smaller parts are, so that at the end no core waits long for another. Files are never
//! split: PostgreSQL cuts relations at 1 GiB itself, and a stock tar could not put halves together. Memory: the entries of
//! one part, and of the large files.

use std::cmp::Reverse;
use std::num::NonZeroUsize;

use crate::model::pages::PageHead;
use crate::postgres::file_tree::Entry;
use crate::postgres::page::PAGE_BYTES;

/// Entries in one part, at most: what bounds memory for a million small relations.
pub(super) const MOST_ENTRIES: usize = 4096;

/// Parts that a manifest can list, about.
const MOST_PARTS: u64 = 20_000;

/// Parts for each of those that flow at once, at least where there is enough for it: the others wait for the last one
/// about a sixtieth of the time.
const ROUNDS: u64 = 32;

/// Bytes that a part is not made smaller than for that.
const LEAST_BYTES: u64 = 32 << 20;

/// A file or directory that goes into a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// What it is.
    pub entry: Entry,
    /// The pages of it that are copied, ascending; all of it when absent.
    pub pages: Option<Vec<u32>>,
}

impl Item {
    /// Bytes that it has in an archive.
    pub(super) fn bytes(&self) -> u64 {
        match &self.pages {
            None => self.entry.size.unwrap_or_default(),
            Some(pages) => PageHead::member_bytes(PAGE_BYTES as u32, pages.len()),
        }
    }
}

/// What goes into one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PartPlan {
    /// Its number, from 1.
    pub number: u32,
    /// Its files and directories.
    pub items: Vec<Item>,
    /// Bytes of the files when they were seen.
    pub bytes: u64,
}

/// What a first walk shows: how much there is, and which files are large beside it.
#[derive(Debug)]
pub(super) struct Survey {
    most: u64,
    parallel: u64,
    bytes: u64,
    large: Vec<(u64, Entry)>,
}

impl Survey {
    /// One for parts of about `most` bytes at most, of which `parallel` flow at once.
    pub(super) fn new(most: u64, parallel: NonZeroUsize) -> Self {
        Self { most: most.max(1), parallel: parallel.get() as u64, bytes: 0, large: Vec::new() }
    }

    /// Takes note of an item.
    pub(super) fn see(&mut self, item: Item) {
        let bytes = item.bytes();
        self.bytes += bytes;
        // Parts only become larger the more there is: what is small beside this much stays so.
        if item.entry.size.is_some() && bytes >= self.target() / 2 {
            self.large.push((bytes, item.entry));
        }
    }

    /// Bytes of a part, about; more than was asked for where a manifest could not list the parts.
    fn target(&self) -> u64 {
        let evenly = self.bytes / (self.parallel * ROUNDS);
        evenly.max(LEAST_BYTES).min(self.most).max(self.bytes / MOST_PARTS)
    }

    /// The large files, the largest first, and what bundles the others into parts whose numbers follow `after`.
    pub(super) fn end(mut self, after: u32) -> (impl Iterator<Item = Entry>, Planner) {
        let target = self.target();
        self.large.retain(|(bytes, _)| *bytes >= target / 2);
        self.large.sort_by_key(|(bytes, _)| Reverse(*bytes));
        let planner = Planner { target, number: after, items: Vec::new(), bytes: 0 };
        (self.large.into_iter().map(|(_, entry)| entry), planner)
    }
}

/// Bundles entries into parts.
#[derive(Debug)]
pub(super) struct Planner {
    target: u64,
    number: u32,
    items: Vec<Item>,
    bytes: u64,
}

impl Planner {
    /// A part with `item` alone.
    pub(super) fn alone(&mut self, item: Item) -> PartPlan {
        self.number += 1;
        PartPlan { number: self.number, bytes: item.bytes(), items: vec![item] }
    }

    /// Takes an item; gives a part once one is full.
    pub(super) fn take(&mut self, item: Item) -> Option<PartPlan> {
        self.bytes += item.bytes();
        self.items.push(item);
        let full = self.bytes >= self.target || self.items.len() >= MOST_ENTRIES;
        if full { self.rest() } else { None }
    }

    /// What has been taken and is in no part yet.
    pub(super) fn rest(&mut self) -> Option<PartPlan> {
        if self.items.is_empty() {
            return None;
        }
        self.number += 1;
        let (items, bytes) = (std::mem::take(&mut self.items), std::mem::take(&mut self.bytes));
        Some(PartPlan { number: self.number, items, bytes })
    }

    /// The number of the part after the last.
    pub(super) fn next_number(&self) -> u32 {
        self.number + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, size: u64) -> Item {
        let entry = Entry { path: path.into(), size: Some(size), mode: 0o600, modified: 0, relation: None };
        Item { entry, pages: None }
    }

    /// The sizes of the large ones among `sizes`, in order, and what bundles the rest.
    fn surveyed(most: u64, parallel: usize, sizes: &[u64]) -> (Vec<u64>, Planner) {
        let mut survey = Survey::new(most, NonZeroUsize::new(parallel).unwrap());
        sizes.iter().enumerate().for_each(|(at, size)| survey.see(file(&format!("base/5/{at}"), *size)));
        let (large, planner) = survey.end(0);
        (large.filter_map(|entry| entry.size).collect(), planner)
    }

    #[test]
    fn a_file_of_which_a_few_pages_are_copied_is_small() {
        let mut survey = Survey::new(1 << 20, NonZeroUsize::MIN);
        let some = Item { pages: Some(vec![1, 7]), ..file("big", 1 << 30) };
        assert!(some.bytes() < 17_000);
        survey.see(some);
        assert_eq!(survey.end(0).0.count(), 0);
    }

    #[test]
    fn small_files_are_bundled_and_large_ones_are_alone() {
        let (large, mut planner) = surveyed(100, 2, &[49, 50, 10, 1000, 60]);
        assert_eq!(large, [1000, 60, 50], "the largest first");
        assert_eq!(planner.alone(file("big", 1000)).number, 1);
        assert_eq!(planner.take(file("a", 40)), None);
        assert_eq!(planner.take(file("b", 40)), None);
        let part = planner.take(file("c", 40)).unwrap();
        assert_eq!((part.number, part.bytes, part.items.len()), (2, 120, 3));
        assert_eq!(planner.take(file("d", 1)), None);
        assert_eq!(planner.rest().unwrap().number, 3);
        assert_eq!((planner.rest(), planner.next_number()), (None, 4));
    }

    #[test]
    fn the_less_there_is_the_smaller_parts_are() {
        let mib = |count: u64| count << 20;
        let of = |gib: u64, parallel: usize| surveyed(mib(256), parallel, &vec![mib(1); 1024 * gib as usize]).1.target;
        assert_eq!(of(1, 2), LEAST_BYTES);
        assert_eq!(of(4, 2), mib(64));
        assert_eq!(of(4, 4), LEAST_BYTES);
        assert_eq!(of(100, 4), mib(256), "no larger than what was asked for");
        assert_eq!(surveyed(mib(4), 2, &[mib(100)]).1.target, mib(4), "nor than little that was asked for");
        let (large, _) = surveyed(mib(256), 2, &[mib(20), mib(1024), mib(1024), mib(1024), mib(30), mib(1024)]);
        assert_eq!(large, [mib(1024); 4], "of what was large when little had been seen, what still is");
    }

    #[test]
    fn a_million_small_files_never_make_a_part_that_does_not_fit_into_memory() {
        let (_, mut planner) = surveyed(1 << 30, 2, &vec![8192; 1_000_000]);
        let parts: Vec<_> = (0..1_000_000).filter_map(|at| planner.take(file(&format!("base/5/{at}"), 8192))).collect();
        assert!(parts.iter().all(|part| part.items.len() == MOST_ENTRIES));
        assert_eq!(parts.len(), 1_000_000 / MOST_ENTRIES);
    }

    #[test]
    fn a_huge_cluster_has_parts_that_a_manifest_can_list() {
        let (large, planner) = surveyed(256 << 20, 4, &vec![1 << 30; 100 << 10]);
        assert!((100 << 40) / planner.target <= MOST_PARTS + 1);
        assert_eq!(large.len(), 0, "bundled: {} bytes to a part", planner.target);
    }
}
