//! Decrypt drills: proof, some weeks old at most, that the holder of a private key can open what is stored for it.
//!
//! A backup that nobody can decrypt looks like any other. Only whoever has the private key can tell, so he has to do it now and
//! then; what he did is signed, and its age is judged here.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::id::ArtifactId;
use crate::model::span::Span;

/// Format number of a signed drill.
pub const FORMAT: u32 = 1;

/// One drill: an artifact was decrypted whole, and the key of this recipient opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drill {
    /// Format number of this document.
    pub format: u32,
    /// Full fingerprint of the recipient's certificate.
    pub recipient: String,
    /// What was decrypted.
    pub artifact: ArtifactId,
    /// When that ended.
    pub drilled: DateTime<Utc>,
}

/// How the last drill of one recipient stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillStatus {
    /// Full fingerprint of the recipient's certificate.
    pub recipient: String,
    /// The last drill; absent when none is known.
    pub last: Option<DateTime<Utc>>,
    /// When the next has to be done at the latest.
    pub due: DateTime<Utc>,
    /// Whether that is past.
    pub state: DrillState,
}

/// Whether a drill is late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrillState {
    /// It is not due yet.
    Current,
    /// It is due.
    Due,
    /// It has been due for as long again: nobody may be able to read what is stored.
    Overdue,
    /// Whether there was one could not be found out.
    Unknown,
}

impl DrillStatus {
    /// Judges the `last` drill of a recipient at `now`. A key as young as `every` has not been due yet.
    pub fn judge(
        recipient: &str,
        created: DateTime<Utc>,
        last: Option<DateTime<Utc>>,
        every: Span,
        now: DateTime<Utc>,
    ) -> Self {
        let due = every.after(last.unwrap_or(created));
        let state = match () {
            () if now < due => DrillState::Current,
            () if now < every.after(due) => DrillState::Due,
            () => DrillState::Overdue,
        };
        Self { recipient: recipient.to_owned(), last, due, state }
    }

    /// The recipient's drill in words.
    pub fn line(&self) -> String {
        let last = match (self.last, self.state) {
            (_, DrillState::Unknown) => "it is not known when its holder last decrypted anything".to_owned(),
            (Some(last), _) => format!("its holder last decrypted a backup on {}", last.format("%Y-%m-%d")),
            (None, _) => "nobody has ever shown that it decrypts anything".to_owned(),
        };
        format!("recipient {}: {last}; due on {}", self.recipient, self.due.format("%Y-%m-%d"))
    }

    /// What keeps the status from being green.
    pub fn complaint(&self) -> Option<String> {
        match self.state {
            DrillState::Current | DrillState::Due => None,
            DrillState::Overdue => Some(format!("the decrypt drill of {} is long overdue", self.recipient)),
            DrillState::Unknown => Some(format!("the decrypt drills of {} are not known", self.recipient)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f50_a_drill_is_due_after_a_month_overdue_after_two_and_a_new_key_is_given_the_first() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let created = at("2026-01-01T00:00:00Z");
        let judge =
            |last: Option<&str>, now| DrillStatus::judge("ABCD", created, last.map(at), Span::months(1), at(now)).state;
        assert_eq!(judge(None, "2026-01-31T23:59:59Z"), DrillState::Current);
        assert_eq!(judge(None, "2026-02-01T00:00:00Z"), DrillState::Due);
        assert_eq!(judge(None, "2026-03-01T00:00:00Z"), DrillState::Overdue);
        assert_eq!(judge(Some("2026-06-10T00:00:00Z"), "2026-07-09T00:00:00Z"), DrillState::Current);
        assert_eq!(judge(Some("2026-06-10T00:00:00Z"), "2026-07-10T00:00:00Z"), DrillState::Due);
        assert_eq!(judge(Some("2026-06-10T00:00:00Z"), "2026-08-10T00:00:00Z"), DrillState::Overdue);
    }
}
