//! The recovery window: to which moments each repository can take the cluster back, timeline by timeline.
//!
//! Several base backups lead to the same moments; a segment that is missing ends what the ones before it reach. What is
//! left are spans, each without a gap; the last one is what can be promised now.

use std::fmt::{self, Write as _};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::model::lsn::Timeline;
use crate::model::outcome::{Finding, Severity};
use crate::model::status::age;
use crate::model::wal::SegmentName;

/// What a point-in-time recovery can reach, in all repositories.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryStatus {
    /// By repository and timeline, the newest timeline of each repository first; only what can be reached.
    pub windows: Vec<WindowStatus>,
    /// Whether PostgreSQL is told "archived" as soon as this host has a segment: the newest ones are lost with it.
    pub local_durable: bool,
    /// Where the window is shorter than it might be.
    pub findings: Vec<Finding>,
}

/// The moments of one timeline that one repository can restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowStatus {
    /// The repository.
    pub repository: String,
    /// The timeline that recovery follows.
    pub timeline: Timeline,
    /// Whether it is the newest timeline of all repositories: the one the cluster is on.
    pub current: bool,
    /// Ascending, without overlap; never empty.
    pub spans: Vec<WindowSpan>,
    /// How long ago the last moment was, in seconds: what would be lost now.
    pub rpo_seconds: i64,
}

/// Moments without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSpan {
    /// The first.
    pub from: DateTime<Utc>,
    /// The last.
    pub until: DateTime<Utc>,
    /// Base backups that recovery can begin from.
    pub backups: u64,
    /// The segment whose absence ends it; absent where it ends with what is archived.
    pub gap: Option<SegmentName>,
}

/// What one base backup reaches along a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The first moment: when the backup ended.
    pub from: DateTime<Utc>,
    /// The last.
    pub until: DateTime<Utc>,
    /// The last segment without a gap.
    pub last: SegmentName,
    /// The segment whose absence ends it; absent where it ends with what is archived.
    pub gap: Option<SegmentName>,
}

/// Joins what single base backups reach along one timeline.
///
/// Two that end with the same segment have no gap between them, and the later one adds no moment. By itself it reaches the
/// moment at which it ended, which is a little after the last write to the log that is stored; what was committed between
/// the two is in no segment yet, so that the span ends with the log.
pub fn spans(mut reaches: Vec<Reached>) -> Vec<WindowSpan> {
    reaches.sort_by_key(|reach| (reach.from, reach.until));
    let mut spans: Vec<WindowSpan> = Vec::new();
    let mut end = None;
    for Reached { from, until, last, gap } in reaches {
        match spans.last_mut() {
            Some(span) if end == Some(last) => span.backups += 1,
            Some(span) if from <= span.until => {
                span.backups += 1;
                if until > span.until {
                    (span.until, span.gap, end) = (until, gap, Some(last));
                }
            }
            _ => {
                spans.push(WindowSpan { from, until, backups: 1, gap });
                end = Some(last);
            }
        }
    }
    spans
}

/// "from X to Y", in instants that can be pasted into `--target-time`.
impl fmt::Display for WindowSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "from {} to {}", exact(self.from), exact(self.until))
    }
}

impl WindowStatus {
    /// The newest moments.
    pub fn last(&self) -> Option<&WindowSpan> {
        self.spans.last()
    }

    /// A finding for each gap: moments that nothing leads to, although what is before and after them is there.
    pub fn findings(&self) -> Vec<Finding> {
        let (repository, timeline) = (&self.repository, self.timeline.0);
        let finding = |(at, span): (usize, &WindowSpan)| {
            let gap = span.gap?;
            let next = self.spans.get(at + 1);
            let (severity, until) = match next {
                Some(next) => (Severity::Warning, format!("to {}", exact(next.from))),
                None => (Severity::Critical, "on".to_owned()),
            };
            let message = format!(
                "no moment after {} {until} can be restored from repository {repository} on timeline {timeline}: \
                 the segment {gap} is missing",
                exact(span.until)
            );
            let remedy = match next {
                Some(_) => "nothing brings them back; `dbagent wal sync` stores the segment if any place still has it",
                None => "make a new base backup now: `dbagent job run base`; recovery works from it on",
            };
            Some(Finding::new(severity, "window-shortened", message).remedy(remedy))
        };
        self.spans.iter().enumerate().filter_map(finding).collect()
    }
}

impl RecoveryStatus {
    /// The window that reaches furthest on the timeline the cluster is on.
    pub fn best(&self) -> Option<(&WindowStatus, &WindowSpan)> {
        let current = self.windows.iter().filter(|window| window.current);
        let last = current.filter_map(|window| Some((window, window.last()?)));
        last.max_by_key(|(_, span)| (span.until, std::cmp::Reverse(span.from)))
    }

    /// "to any moment from X to Y", for after "You can restore"; nothing where there is no window.
    pub fn sentence(&self) -> Option<String> {
        let (_, span) = self.best()?;
        Some(format!("to any moment {span}"))
    }

    /// What would be lost now, repository by repository; nothing where there is no window.
    pub fn rpo(&self) -> Option<String> {
        let mut text = String::new();
        for window in self.windows.iter().filter(|window| window.current) {
            let between = if text.is_empty() { "RPO now: " } else { ", " };
            // Into a string that cannot fail.
            let _ = write!(text, "{between}{} in {}", age(window.rpo_seconds), window.repository);
        }
        if self.local_durable && !text.is_empty() {
            text.push_str(" (local-durable: what is not carried off-site yet is lost with this host)");
        }
        (!text.is_empty()).then_some(text)
    }
}

/// An instant that can be pasted into `--target-time`.
fn exact(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: u32) -> DateTime<Utc> {
        format!("2026-03-01T{hour:02}:00:00Z").parse().unwrap()
    }

    /// What ends with segment number `until`.
    fn reach(from: u32, until: u32, gap: Option<&str>) -> Reached {
        let (last, gap) = (format!("0000000100000000{until:08X}"), gap.map(|name| name.parse().unwrap()));
        Reached { from: at(from), until: at(until), last: last.parse().unwrap(), gap }
    }

    fn span(from: u32, until: u32, backups: u64, gap: Option<&str>) -> WindowSpan {
        WindowSpan { from: at(from), until: at(until), backups, gap: gap.map(|name| name.parse().unwrap()) }
    }

    fn window(repository: &str, timeline: u32, current: bool, reaches: Vec<Reached>) -> WindowStatus {
        let timeline = Timeline(timeline);
        WindowStatus { repository: repository.into(), timeline, current, spans: spans(reaches), rpo_seconds: 90 }
    }

    const GAP: &str = "000000010000000000000007";

    #[test]
    fn base_backups_that_reach_the_same_end_make_one_span_and_a_gap_makes_two() {
        let joined = spans(vec![reach(3, 9, None), reach(1, 9, None)]);
        assert_eq!(joined, [span(1, 9, 2, None)]);
        let apart = spans(vec![reach(6, 9, None), reach(1, 4, Some(GAP)), reach(2, 4, Some(GAP))]);
        assert_eq!(apart, [span(1, 4, 2, Some(GAP)), span(6, 9, 1, None)]);
        // A backup that began before the segment was lost and ended behind it.
        assert_eq!(spans(vec![reach(1, 4, Some(GAP)), reach(4, 9, None)])[0].gap, None);
    }

    #[test]
    fn a_base_backup_that_has_just_ended_leaves_the_window_whole() {
        // It ended after the last write to its own log, which is all that is stored.
        let just_ended = |at: u32, log: u32| Reached { last: reach(0, log, None).last, ..reach(at, at, None) };
        assert_eq!(spans(vec![reach(1, 7, None), just_ended(8, 7)]), [span(1, 7, 2, None)]);
        assert_eq!(spans(vec![just_ended(9, 7), reach(1, 7, None), just_ended(8, 7)]), [span(1, 7, 3, None)]);
        assert_eq!(spans(vec![just_ended(8, 7)]), [span(8, 8, 1, None)], "alone it is all there is");
        let behind_a_gap = spans(vec![reach(1, 4, Some(GAP)), just_ended(8, 7)]);
        assert_eq!(behind_a_gap, [span(1, 4, 1, Some(GAP)), span(8, 8, 1, None)]);
        // As where a successor by pg_upgrade begins: the end of the old log is no gap, and nothing leads over it.
        assert_eq!(spans(vec![reach(1, 6, None), just_ended(8, 7)]).len(), 2);
        let behind_both = spans(vec![reach(1, 4, Some(GAP)), reach(6, 7, None), just_ended(8, 7)]);
        assert_eq!(behind_both, [span(1, 4, 1, Some(GAP)), span(6, 7, 2, None)]);
    }

    #[test]
    fn a_gap_is_a_warning_once_a_base_backup_leads_on_and_critical_before() {
        let healed = window("local", 1, true, vec![reach(1, 4, Some(GAP)), reach(6, 9, None)]).findings();
        assert_eq!(healed.iter().map(|finding| finding.severity).collect::<Vec<_>>(), [Severity::Warning]);
        assert!(healed[0].message.contains("after 2026-03-01T04:00:00Z to 2026-03-01T06:00:00Z"), "{healed:?}");
        let open = window("local", 1, true, vec![reach(1, 4, Some(GAP))]).findings();
        assert_eq!(open[0].severity, Severity::Critical);
        assert!(open[0].message.contains(GAP), "{open:?}");
        assert!(window("local", 1, true, vec![reach(1, 4, None)]).findings().is_empty());
    }

    #[test]
    fn the_window_that_reaches_furthest_on_the_present_timeline_leads() {
        let windows = vec![
            window("local", 2, true, vec![reach(5, 8, None)]),
            window("s3", 2, true, vec![reach(2, 7, None)]),
            window("s3", 1, false, vec![reach(1, 20, None)]),
        ];
        let mut status = RecoveryStatus { windows, local_durable: false, findings: Vec::new() };
        let said = "to any moment from 2026-03-01T05:00:00Z to 2026-03-01T08:00:00Z";
        assert_eq!(status.sentence().as_deref(), Some(said));
        assert_eq!(status.rpo().as_deref(), Some("RPO now: 90 s in local, 90 s in s3"));
        status.local_durable = true;
        assert!(status.rpo().unwrap().contains("local-durable"));
        assert_eq!(RecoveryStatus { local_durable: true, ..RecoveryStatus::default() }.rpo(), None);
    }
}
