//! What is known of the audit chain and of the months of partitioned tables: the lines of the status that are about them.
//!
//! What could not be found out says so, and is never sound.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::status::age;

/// Months ahead below which a table is in danger.
const FEWEST_AHEAD: u64 = 2;

/// The audit chain, as its signed checkpoints and the database say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainStatus {
    /// The newest place, in the database.
    pub size: Option<i64>,
    /// The hash there.
    pub hash: Option<String>,
    /// When the newest checkpoint was taken, in the repository where that is longest ago.
    pub last_checkpoint: Option<DateTime<Utc>>,
    /// When every row up to some place was last verified and that was signed.
    pub last_verified: Option<DateTime<Utc>>,
    /// The longest the newest checkpoint may lie back, in seconds; absent where the plan signs none.
    pub longest_without_checkpoint: Option<i64>,
    /// The longest the last verification may lie back, in seconds.
    pub longest_unverified: Option<i64>,
    /// Alerts that nobody has acknowledged, those that wait for the database included.
    pub open_alerts: Option<u64>,
    /// What is wrong with checkpoints, or could not be found out, as what failed.
    pub troubles: Vec<String>,
}

impl ChainStatus {
    /// What keeps it from being green at `now`, a clause each; nothing when it is.
    pub fn complaints(&self, now: DateTime<Utc>) -> Vec<String> {
        let mut complaints = Vec::new();
        match self.open_alerts {
            Some(0) => {}
            Some(count) => complaints.push(format!("{count} audit alerts are not acknowledged")),
            None => complaints.push("it is not known whether audit alerts are open".to_owned()),
        }
        let late = |last: Option<DateTime<Utc>>, longest: Option<i64>, what: &str| match (last, longest) {
            (_, None) => None,
            (None, Some(_)) => Some(format!("the audit chain has no {what}")),
            (Some(last), Some(longest)) => {
                let seconds = (now - last).num_seconds();
                (seconds > longest).then(|| format!("the last {what} of the audit chain is {} old", age(seconds)))
            }
        };
        complaints.extend(late(self.last_verified, self.longest_unverified, "signed verification"));
        complaints.extend(late(self.last_checkpoint, self.longest_without_checkpoint, "checkpoint"));
        complaints.extend(
            self.troubles.iter().map(|trouble| format!("of the audit chain it is not known: failed to {trouble}")),
        );
        complaints
    }

    /// Where the chain is, in one line.
    pub fn line(&self, now: DateTime<Utc>) -> String {
        let since = |last: Option<DateTime<Utc>>| match last {
            Some(last) => format!("{} ago", age((now - last).num_seconds())),
            None => "never".to_owned(),
        };
        let head = match (self.size, &self.hash) {
            (Some(size), Some(hash)) => format!("head at {size}, {}…", hash.get(..16).unwrap_or(hash)),
            (Some(_), None) => "empty".to_owned(),
            (None, _) => "head unknown".to_owned(),
        };
        format!("{head}; verified {}; checkpoint {}", since(self.last_verified), since(self.last_checkpoint))
    }
}

/// The months of one partitioned table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CalendarStatus {
    /// The table.
    pub table: String,
    /// How many partitions there are.
    pub partitions: u64,
    /// Months ahead of the present one that are there, without a gap.
    pub ahead: u64,
    /// Rows in the default partition.
    pub rows_in_default: u64,
    /// Partitions past their retention that are still there.
    pub overdue: u64,
    /// Why nothing is known of it, as what failed.
    pub unknown: Option<String>,
}

impl CalendarStatus {
    /// What keeps it from being green; nothing when it is.
    pub fn complaint(&self) -> Option<String> {
        let table = &self.table;
        match self {
            Self { unknown: Some(why), .. } => {
                Some(format!("of the months of {table} nothing is known: failed to {why}"))
            }
            Self { ahead, .. } if *ahead < FEWEST_AHEAD => Some(format!("{table} has {ahead} months ahead")),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_chain_is_green_only_when_it_was_verified_signed_and_nobody_waits() {
        let ago = |minutes| Some(now() - chrono::TimeDelta::minutes(minutes));
        let good = ChainStatus {
            size: Some(7),
            hash: Some("ab".repeat(32)),
            last_checkpoint: ago(4),
            last_verified: ago(50),
            longest_without_checkpoint: Some(600),
            longest_unverified: Some(7200),
            open_alerts: Some(0),
            troubles: Vec::new(),
        };
        assert_eq!(good.complaints(now()), [] as [String; 0]);
        assert_eq!(good.line(now()), "head at 7, abababababababab…; verified 50 min ago; checkpoint 4 min ago");
        for (bad, word) in [
            (ChainStatus { open_alerts: Some(2), ..good.clone() }, "2 audit alerts"),
            (ChainStatus { open_alerts: None, ..good.clone() }, "not known"),
            (ChainStatus { last_verified: None, ..good.clone() }, "no signed verification"),
            (ChainStatus { last_checkpoint: ago(20), ..good.clone() }, "20 min old"),
            (ChainStatus { troubles: vec!["read it".into()], ..good.clone() }, "failed to read it"),
        ] {
            let complaints = bad.complaints(now());
            assert!(complaints.len() == 1 && complaints[0].contains(word), "{complaints:?}");
        }
        assert!(
            ChainStatus { last_checkpoint: None, longest_without_checkpoint: None, ..good }
                .complaints(now())
                .is_empty()
        );
    }

    #[test]
    fn a_calendar_without_months_ahead_or_without_facts_is_not_green() {
        let good = CalendarStatus { table: "t".into(), partitions: 9, ahead: 3, ..CalendarStatus::default() };
        assert_eq!(good.complaint(), None);
        assert!(CalendarStatus { ahead: 1, ..good.clone() }.complaint().unwrap().contains("1 months ahead"));
        assert!(
            CalendarStatus { unknown: Some("connect".into()), ..good }
                .complaint()
                .unwrap()
                .contains("nothing is known")
        );
    }
}
