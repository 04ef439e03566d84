//! Whether rows, read in any order, are one chain: rows that meet are joined into segments, and what is left over is
//! either one segment or the proof that something is wrong.
//!
//! A row goes onto the segment whose tail it follows, or is parked as a segment of its own until its neighbours come. A
//! table filled in order is one growing segment; sessions that insert side by side fill pages side by side, so that a few
//! hundred wait at any time. A table in random order would park a large part of its rows; beyond [`Linker::limit`] the
//! linker gives up, its memory freed, and sums over the side table have to prove the order.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::model::audit::row::{Link, RowFacts, RowKey};
use crate::model::digest::Digest;

/// Rows that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// `previous_hash` of its first row; nothing before the first row of all.
    pub after: Option<Digest>,
    /// Key of its first row.
    pub first: RowKey,
    /// Hash of its last row.
    pub tail: Digest,
    /// How many rows it has.
    pub rows: u64,
}

/// Digests need no hashing of their own.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk::<8>() {
            self.0 ^= u64::from_le_bytes(*first);
        }
    }

    fn write_usize(&mut self, _: usize) {}
    fn write_isize(&mut self, _: isize) {}
}

type ByDigest<V> = HashMap<Digest, V, BuildHasherDefault<Prefix>>;

/// Joins rows into segments.
#[derive(Debug)]
pub struct Linker {
    limit: usize,
    /// The segment that is growing: it is in no map.
    growing: Option<Segment>,
    /// Parked segments by the hash of their last row.
    tails: ByDigest<Segment>,
    /// The tails of parked segments, by what they come after.
    starts: ByDigest<Digest>,
    /// The tail of the parked segment that comes after nothing.
    origin: Option<Digest>,
    collided: bool,
    given_up: bool,
}

/// What rows came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// Segments that nothing joins; of a whole chain exactly one.
    pub segments: Vec<Segment>,
    /// Two rows had the same hash.
    pub collided: bool,
    /// Too many segments waited at once; the segments are not known.
    pub given_up: bool,
}

impl Linker {
    /// A linker that holds at most `limit` parked segments, of about 250 bytes each.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            growing: None,
            tails: ByDigest::default(),
            starts: ByDigest::default(),
            origin: None,
            collided: false,
            given_up: false,
        }
    }

    /// How many segments may be parked.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a row, by its stored hash. One whose hash columns hold no hash links to nothing and is left out; its content
    /// cannot be sound either.
    pub fn add(&mut self, row: &RowFacts) {
        let Link::Hash(hash) = row.stored else { return };
        let after = match row.previous {
            Link::None => None,
            Link::Hash(hash) => Some(hash),
            Link::Malformed => return,
        };
        if self.given_up {
            return;
        }
        match &mut self.growing {
            Some(segment) if after == Some(segment.tail) => {
                segment.tail = hash;
                segment.rows += 1;
            }
            _ => self.turn(Segment { after, first: row.key, tail: hash, rows: 1 }),
        }
    }

    /// Takes rows that are known to follow one another: of another partition, or sealed.
    pub fn add_segment(&mut self, segment: Segment) {
        if !self.given_up {
            self.turn(segment);
        }
    }

    /// Parks what was growing and goes on with the segment that `next` belongs to.
    fn turn(&mut self, next: Segment) {
        if let Some(segment) = self.growing.take() {
            self.park(segment);
        }
        let before = next.after.and_then(|after| self.unpark(&after));
        self.growing = Some(match before {
            None => next,
            Some(before) => Segment { tail: next.tail, rows: before.rows + next.rows, ..before },
        });
        if self.tails.len() > self.limit {
            *self = Self { given_up: true, ..Self::new(self.limit) };
        }
    }

    /// Takes the parked segment that ends with `tail` out.
    fn unpark(&mut self, tail: &Digest) -> Option<Segment> {
        let segment = self.tails.remove(tail)?;
        match segment.after {
            Some(after) if self.starts.get(&after) == Some(tail) => drop(self.starts.remove(&after)),
            None if self.origin == Some(*tail) => self.origin = None,
            _ => {}
        }
        Some(segment)
    }

    /// Puts a segment away, joined with the one that comes after it and the one that comes before it.
    fn park(&mut self, mut segment: Segment) {
        if let Some(tail) = self.starts.get(&segment.tail).copied()
            && tail != segment.tail
            && let Some(next) = self.unpark(&tail)
        {
            segment = Segment { tail: next.tail, rows: segment.rows + next.rows, ..segment };
        }
        if let Some(before) = segment.after.filter(|after| *after != segment.tail).and_then(|after| self.unpark(&after))
        {
            segment = Segment { tail: segment.tail, rows: before.rows + segment.rows, ..before };
        }
        match segment.after {
            Some(after) => drop(self.starts.entry(after).or_insert(segment.tail)),
            None => drop(self.origin.get_or_insert(segment.tail)),
        }
        // The same hash twice is a hash written over; the same content twice the primary key keeps out.
        self.collided |= self.tails.insert(segment.tail, segment).is_some();
    }

    /// What all rows came to.
    pub fn finish(mut self) -> Linked {
        if let Some(segment) = self.growing.take() {
            self.park(segment);
        }
        let mut segments: Vec<Segment> = self.tails.into_values().collect();
        segments.sort_by_key(|segment| (segment.after, segment.first));
        Linked { segments, collided: self.collided, given_up: self.given_up }
    }
}

impl Linked {
    /// The one segment that begins after nothing, if that is all there is.
    pub fn whole(&self) -> Option<&Segment> {
        match self.segments.as_slice() {
            [segment] if segment.after.is_none() && !self.collided && !self.given_up => Some(segment),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn row(number: u64) -> RowFacts {
        follows(number, number.checked_sub(1))
    }

    fn follows(number: u64, after: Option<u64>) -> RowFacts {
        let hash = digest(number);
        let key = RowKey { recorded_at: i64::try_from(number).unwrap(), id: [0; 16] };
        let previous = after.map_or(Link::None, |after| Link::Hash(digest(after)));
        RowFacts { key, previous, stored: Link::Hash(hash), computed: hash }
    }

    fn linked(rows: &[RowFacts]) -> Linked {
        let mut linker = Linker::new(1000);
        rows.iter().for_each(|row| linker.add(row));
        linker.finish()
    }

    proptest! {
        #[test]
        fn a_chain_is_one_segment_in_whatever_order_it_is_read(
            order in Just((0..60_u64).collect::<Vec<_>>()).prop_shuffle(), parts in 1..5_usize,
        ) {
            let mut merged = Linker::new(1000);
            for part in 0..parts {
                let mut linker = Linker::new(1000);
                order.iter().filter(|number| **number as usize % parts == part).for_each(|number| linker.add(&row(*number)));
                linker.finish().segments.into_iter().for_each(|segment| merged.add_segment(segment));
            }
            let linked = merged.finish();
            let whole = linked.whole().unwrap();
            prop_assert_eq!((whole.rows, whole.tail), (60, digest(59)));
        }

        #[test]
        fn a_row_less_or_a_second_follower_is_never_one_chain(
            order in Just((0..40_u64).collect::<Vec<_>>()).prop_shuffle(), victim in 0..39_u64,
        ) {
            let rows: Vec<_> = order.iter().map(|number| row(*number)).collect();
            let less: Vec<_> = rows.iter().copied().filter(|row| row.stored != Link::Hash(digest(victim))).collect();
            prop_assert!(linked(&less).whole().is_none());
            let mut forked = rows;
            forked.insert(usize::try_from(victim).unwrap(), follows(1000, Some(victim)));
            prop_assert!(linked(&forked).whole().is_none());
        }
    }

    #[test]
    fn a_second_beginning_is_no_chain() {
        for rows in [[row(0), row(1), follows(50, None)], [follows(50, None), row(1), row(0)]] {
            assert_eq!(linked(&rows).segments.len(), 2);
        }
    }

    #[test]
    fn a_cut_chain_has_its_tail_where_it_was_cut() {
        let linked = linked(&[row(0), row(1), row(2)]);
        assert_eq!(linked.whole().unwrap().tail, digest(2), "only the side table knows that there was more");
    }

    #[test]
    fn a_ring_is_no_chain() {
        let linked = linked(&[follows(1, Some(2)), follows(2, Some(1)), follows(3, Some(3))]);
        assert!(linked.whole().is_none());
    }

    #[test]
    fn beyond_its_limit_it_says_that_it_does_not_know() {
        let mut linker = Linker::new(10);
        (0..100).step_by(2).for_each(|number| linker.add(&row(number)));
        let linked = linker.finish();
        assert!(linked.given_up && linked.whole().is_none());
    }
}
