//! Which files go into which part: pure, one pass over what a walk shows.
//!
//! A large file is a part of its own and goes first, so that no core waits for the last of them; the others are bundled
//! up to a size. Files are never split: PostgreSQL cuts relations at 1 GiB itself, and a stock tar could not put halves
//! together. Memory: the entries of one part.

use crate::model::pages::PageHead;
use crate::postgres::file_tree::Entry;
use crate::postgres::page::PAGE_BYTES;

/// Entries in one part, at most: what bounds memory for a million small relations.
pub(super) const MOST_ENTRIES: usize = 4096;

/// Parts that a manifest can list, about.
const MOST_PARTS: u64 = 20_000;

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

/// Bundles entries into parts.
#[derive(Debug)]
pub(super) struct Planner {
    target: u64,
    number: u32,
    items: Vec<Item>,
    bytes: u64,
}

impl Planner {
    /// Parts of about `target` bytes, larger where the cluster has `expected` bytes and a manifest could not list them.
    /// Their numbers follow `after`.
    pub(super) fn new(target: u64, expected: u64, after: u32) -> Self {
        Self { target: target.max(expected / MOST_PARTS).max(1), number: after, items: Vec::new(), bytes: 0 }
    }

    /// Whether `item` is large enough to be a part of its own.
    pub(super) fn is_large(&self, item: &Item) -> bool {
        item.entry.size.is_some() && item.bytes() >= self.target / 2
    }

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

    #[test]
    fn a_file_of_which_a_few_pages_are_copied_is_small() {
        let planner = Planner::new(1 << 20, 0, 0);
        let some = Item { pages: Some(vec![1, 7]), ..file("big", 1 << 30) };
        assert!(!planner.is_large(&some) && some.bytes() < 17_000);
    }

    #[test]
    fn small_files_are_bundled_and_large_ones_are_alone() {
        let mut planner = Planner::new(100, 0, 0);
        assert!(planner.is_large(&file("a", 50)) && !planner.is_large(&file("a", 49)));
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
    fn a_million_small_files_never_make_a_part_that_does_not_fit_into_memory() {
        let mut planner = Planner::new(1 << 30, 0, 0);
        let parts: Vec<_> = (0..1_000_000).filter_map(|at| planner.take(file(&format!("base/5/{at}"), 8192))).collect();
        assert!(parts.iter().all(|part| part.items.len() == MOST_ENTRIES));
        assert_eq!(parts.len(), 1_000_000 / MOST_ENTRIES);
    }

    #[test]
    fn a_huge_cluster_has_parts_that_a_manifest_can_list() {
        let planner = Planner::new(256 << 20, 100 << 40, 0);
        assert!((100 << 40) / planner.target <= MOST_PARTS + 1);
    }
}
