//! When the holder of each private key last showed that it opens what is stored.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::Repository;
use crate::model::drill::{DrillState, DrillStatus};
use crate::model::span::Span;
use crate::pipeline::openpgp::Recipients;

use super::READING_TIME;

/// Judges the newest drill of each of `recipients` in any of `repositories`. Where one of these cannot be read (`unopened`
/// says that some could not even be opened), no drill is called late that may be in there.
pub async fn drills(
    recipients: &Recipients,
    every: Span,
    repositories: &[Repository],
    unopened: bool,
    now: DateTime<Utc>,
) -> Vec<DrillStatus> {
    let mut last: BTreeMap<String, DateTime<Utc>> = BTreeMap::new();
    let mut unread = unopened;
    for repository in repositories {
        match tokio::time::timeout(READING_TIME, repository.newest_drills(now)).await {
            Ok(Ok(newest)) => {
                for (recipient, drill) in newest {
                    let last = last.entry(recipient).or_insert(drill.drilled);
                    *last = drill.drilled.max(*last);
                }
            }
            Ok(Err(_)) | Err(_) => unread = true,
        }
    }
    let judged = recipients.list().iter().map(|recipient| {
        let last = last.get(&recipient.fingerprint).copied();
        let judged = DrillStatus::judge(&recipient.fingerprint, recipient.created, last, every, now);
        match judged.state {
            DrillState::Due | DrillState::Overdue if unread => DrillStatus { state: DrillState::Unknown, ..judged },
            _ => judged,
        }
    });
    judged.collect()
}
