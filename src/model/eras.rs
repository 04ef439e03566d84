//! Whose log a timeline is, where: pg_upgrade gives a cluster another system identifier and goes on with the names of
//! timeline 1, behind the old log's last segment, as if nothing had happened.
//!
//! No recovery gets from one era into the next, and what lies between them never existed.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::lsn::SystemId;
use crate::model::wal::SegmentName;

/// One system's stretch of a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Era {
    /// The system.
    pub system: SystemId,
    /// The first segment of it that is known; everything up to the next era is its own.
    pub first: SegmentName,
}

/// The eras of one timeline, ascending; empty where nothing is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Eras(Vec<Era>);

impl Eras {
    /// These, each behind the one before.
    pub fn new(eras: Vec<Era>) -> Self {
        Self(eras)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Era> {
        self.0.iter()
    }

    /// Whether more than one system wrote it.
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// What two repositories know of the same timeline.
    pub fn merge(&mut self, other: &Self) {
        let mut firsts: BTreeMap<SystemId, SegmentName> = BTreeMap::new();
        for era in self.0.iter().chain(&other.0) {
            let first = firsts.entry(era.system).or_insert(era.first);
            *first = (*first).min(era.first);
        }
        self.0 = firsts.into_iter().map(|(system, first)| Era { system, first }).collect();
        self.0.sort_by_key(|era| era.first);
    }

    /// Whether `segment`, of this timeline, can be of `system`; what nobody knows can.
    pub fn can_be_of(&self, segment: SegmentName, system: Option<SystemId>) -> bool {
        let own = self.0.iter().rev().find(|era| segment.is_at_or_after(era.first)).or(self.0.first());
        own.zip(system).is_none_or(|(era, system)| era.system == system)
    }

    /// Where the log of `system` ends: the first segment of the era behind its own; nothing where there is none.
    pub fn end_of(&self, system: Option<SystemId>) -> Option<SegmentName> {
        let own = self.0.iter().position(|era| Some(era.system) == system)?;
        self.0.get(own + 1).map(|era| era.first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: u32) -> SegmentName {
        format!("0000000100000000{number:08X}").parse().unwrap()
    }

    fn eras(all: &[(u64, u32)]) -> Eras {
        Eras::new(all.iter().map(|(system, first)| Era { system: SystemId(*system), first: segment(*first) }).collect())
    }

    #[test]
    fn a_segment_is_of_the_era_that_it_lies_in() {
        let eras = eras(&[(7, 3), (8, 20)]);
        let of = |number, system| eras.can_be_of(segment(number), Some(SystemId(system)));
        assert!(of(1, 7) && of(3, 7) && of(19, 7) && !of(20, 7) && of(20, 8) && of(99, 8) && !of(19, 8));
        assert!(eras.can_be_of(segment(5), None) && Eras::default().can_be_of(segment(5), Some(SystemId(1))));
        assert_eq!(eras.end_of(Some(SystemId(7))), Some(segment(20)));
        assert_eq!(
            (eras.end_of(Some(SystemId(8))), eras.end_of(Some(SystemId(9))), eras.end_of(None)),
            (None, None, None)
        );
    }

    #[test]
    fn each_repository_may_begin_later_than_another() {
        let mut merged = eras(&[(7, 5)]);
        merged.merge(&eras(&[(7, 3), (8, 21)]));
        merged.merge(&eras(&[(8, 20)]));
        assert_eq!(merged, eras(&[(7, 3), (8, 20)]));
    }
}
