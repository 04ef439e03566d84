//! What is said where no base backup serves a target: which moments can be restored, as `status` says them, and what may
//! help.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::Timeline;
use crate::model::window::{Reached, WindowSpan, spans};
use crate::ops::recover::target::Target;
use crate::steps::wal::Reach;

/// Refuses `target` in `repository`, whose base backups reach `reaches`.
pub(super) fn outside_window(
    target: &Target,
    repository: &str,
    reaches: &[(Timeline, Reach)],
    now: DateTime<Utc>,
) -> Failure {
    if reaches.is_empty() {
        let message = format!("restore to {target}: no base backup in repository {repository} has its log there");
        return Failure::new(FailureKind::OutsideWindow, message).hint(
            "`dbagent wal list` shows which segments are stored; `dbagent job run base` makes a new base backup.",
        );
    }
    let message = format!("restore to {target} from repository {repository}: it can be restored {}", moments(reaches));
    Failure::new(FailureKind::OutsideWindow, message).hint(advice(target, reaches, now))
}

/// "to any moment from X to Y", each timeline for itself, the newest first.
fn moments(reaches: &[(Timeline, Reach)]) -> String {
    let mut timelines: BTreeMap<Reverse<Timeline>, Vec<Reached>> = BTreeMap::new();
    for (timeline, reach) in reaches {
        timelines.entry(Reverse(*timeline)).or_default().push(reach.reached());
    }
    let several = timelines.len() > 1;
    let moments = timelines.into_iter().map(|(Reverse(timeline), reaches)| {
        let spans: Vec<String> = spans(reaches).iter().map(in_words).collect();
        let on = if several { format!("on timeline {} ", timeline.0) } else { String::new() };
        format!("{on}to any moment {}", spans.join(" and "))
    });
    moments.collect::<Vec<_>>().join(", ")
}

fn in_words(span: &WindowSpan) -> String {
    match span.gap {
        Some(gap) => format!("{span} (then the segment {gap} is missing)"),
        None => span.to_string(),
    }
}

fn advice(target: &Target, reaches: &[(Timeline, Reach)], now: DateTime<Utc>) -> &'static str {
    let ends_before = |reach: &Reach| match target {
        Target::Time(instant) => reach.until < *instant,
        Target::Position(lsn) => reach.end <= *lsn,
        Target::Latest => true,
        Target::Transaction(_) | Target::Name(_) | Target::Immediate => false,
    };
    let before: Vec<&Reach> = reaches.iter().map(|(_, reach)| reach).filter(|reach| ends_before(reach)).collect();
    let nearest = before.iter().max_by_key(|reach| (reach.until, reach.end));
    let is_future = matches!(target, Target::Time(instant) if *instant > now);
    match nearest {
        Some(nearest) if nearest.gap.is_some() => {
            "Look for the segment in the server's pg_wal; `dbagent wal push` stores it."
        }
        Some(_) if before.len() == reaches.len() && !is_future => {
            "What came after that may only not be archived yet: run `SELECT pg_switch_wal()` on the primary and try again \
             once that segment is stored. --latest restores everything that is archived."
        }
        _ => "Choose a moment within it; --latest restores everything that is archived.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lsn::Lsn;
    use crate::model::wal::SegmentName;

    fn at(hour: u32) -> DateTime<Utc> {
        format!("2026-03-01T{hour:02}:00:00Z").parse().unwrap()
    }

    fn segment(number: u32) -> SegmentName {
        format!("0000000100000000{number:08X}").parse().unwrap()
    }

    /// One that ends with segment number `until`.
    fn reach(timeline: u32, from: u32, until: u32, gap: Option<u32>) -> (Timeline, Reach) {
        let reach = Reach {
            from: at(from),
            until: at(until),
            first: segment(from),
            last: segment(until),
            end: Lsn(u64::from(until + 1) << 24),
            segments: u64::from(until - from + 1),
            gap: gap.map(segment),
        };
        (Timeline(timeline), reach)
    }

    fn refused(target: Target, reaches: &[(Timeline, Reach)]) -> (String, String) {
        let failure = outside_window(&target, "local", reaches, at(20));
        assert_eq!(failure.kind, FailureKind::OutsideWindow);
        (failure.message, failure.hint.unwrap())
    }

    #[test]
    fn a_target_in_a_gap_is_in_none_of_the_moments_that_are_named() {
        let reaches = [reach(1, 6, 9, None), reach(1, 2, 4, Some(5)), reach(1, 1, 4, Some(5))];
        let (message, hint) = refused(Target::Time(at(5)), &reaches);
        let said = "it can be restored to any moment from 2026-03-01T01:00:00Z to 2026-03-01T04:00:00Z (then the segment \
                    000000010000000000000005 is missing) and from 2026-03-01T06:00:00Z to 2026-03-01T09:00:00Z";
        assert!(message.ends_with(said), "{message}");
        assert!(hint.contains("wal push"), "{hint}");
        assert!(refused(Target::Latest, &reaches[1..]).1.contains("wal push"));
        assert!(refused(Target::Time(at(0)), &reaches).1.contains("within"), "the gap is not in its way");
    }

    #[test]
    fn what_is_later_than_the_window_may_not_be_archived_yet() {
        let reaches = [reach(1, 6, 9, None), reach(1, 1, 4, Some(5))];
        assert!(refused(Target::Time(at(10)), &reaches).1.contains("pg_switch_wal"));
        assert!(refused(Target::Position(Lsn(11 << 24)), &reaches).1.contains("pg_switch_wal"));
        let (_, hint) = refused(Target::Time(at(21)), &reaches);
        assert!(!hint.contains("pg_switch_wal"), "nothing archives the future: {hint}");
        assert!(!refused(Target::Time(at(0)), &reaches).1.contains("pg_switch_wal"));
    }

    #[test]
    fn each_timeline_has_its_own_moments() {
        let (message, _) = refused(Target::Time(at(12)), &[reach(1, 1, 9, None), reach(2, 1, 5, None)]);
        let said = "restored on timeline 2 to any moment from 2026-03-01T01:00:00Z to 2026-03-01T05:00:00Z, on timeline 1 to \
                    any moment from 2026-03-01T01:00:00Z to 2026-03-01T09:00:00Z";
        assert!(message.ends_with(said), "{message}");
        assert!(refused(Target::Latest, &[]).0.contains("no base backup"));
    }
}
