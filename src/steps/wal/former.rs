//! Timelines of a system that pg_upgrade has replaced, in the way of its successor's: a successor begins on timeline 1
//! anew, and counts its timelines from there.
//!
//! Nothing is lost by it, for nothing is ever overwritten: from the successor's first new timeline on nothing more is
//! archived. So it is told as soon as the successor's first segment is there, long before.

use crate::model::lsn::{SystemId, Timeline};
use crate::model::outcome::{Finding, Severity};
use crate::model::timeline::TimelineSwitch;
use crate::steps::wal::Survey;

/// That the histories of a former system lie where its successor's have to, if they do.
pub(super) fn in_the_way(found: &Survey) -> Option<Finding> {
    let mut taken: Vec<(Timeline, SystemId, SystemId)> = Vec::new();
    for history in found.tree.histories() {
        let timeline = history.timeline();
        let successor = history.ancestors().iter().find_map(|switch| found.successor_of(timeline, switch));
        taken.extend(successor.map(|(former, successor)| (timeline, former, successor)));
    }
    let (first, former, successor) = *taken.first()?;
    let names: Vec<String> = taken.iter().map(|(timeline, ..)| timeline.0.to_string()).collect();
    let message = format!(
        "the timelines {} are those of system {former}, and system {successor} goes on from timeline 1 in the same place: once it \
         comes to timeline {}, by a failover or a recovery into the past, its log cannot be archived any more",
        names.join(", "),
        first.0
    );
    let remedy = "give the cluster another [repository.NAME] with a url of its own, and make a base backup there at once; what is \
                  stored in the old one stays readable";
    Some(Finding::new(Severity::Warning, "wal-former-timelines", message).remedy(remedy))
}

impl Survey {
    /// The system of `timeline`, and the one that wrote the timeline it left at `switch` after it had left it.
    fn successor_of(&self, timeline: Timeline, switch: &TimelineSwitch) -> Option<(SystemId, SystemId)> {
        let eras = |timeline| self.timelines.iter().find(|each| each.timeline == timeline).map(|each| &each.eras);
        let left = eras(switch.timeline)?;
        let last = left.iter().last()?;
        let own = eras(timeline).and_then(|eras| eras.iter().next()).or(left.iter().next())?;
        let begins = last.first.start(self.size?)?;
        (own.system != last.system && begins > switch.left_at).then_some((own.system, last.system))
    }
}
