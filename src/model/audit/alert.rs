//! Alerts: what is told of a finding, in at most 4 KiB and without a row's content, and the code that shows who told it.
//!
//! The code is HMAC-SHA-256 (RFC 2104) under a key that agent and listeners share, over the payload without it, as JSON with
//! keys in order and no blanks: NOTIFY needs no privilege, so a notice alone says nothing.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::audit::CHAIN;
use crate::model::audit::checkpoint::canonical;
use crate::model::audit::finding::{ChainFinding, FindingKind};
use crate::model::digest::{Digest, Hasher};
use crate::model::id::{AlertId, RunId};

/// Largest payload, in bytes; PostgreSQL takes less than 8000.
pub const PAYLOAD_LIMIT: usize = 4096;

/// Longest message, in characters.
const LONGEST_MESSAGE: usize = 600;

/// What the alert is about, beside the finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The chain.
    pub chain: String,
    /// The run that found it.
    pub run: RunId,
    /// The cluster's own identifier, as text.
    pub system_identifier: Option<String>,
    /// The database.
    pub database: String,
    /// The places that were verified, first and last.
    pub verified: Option<(i64, i64)>,
    /// Key of the last checkpoint that nothing contradicted.
    pub last_good_checkpoint: Option<String>,
}

impl Subject {
    /// The chain in `database`, of which `run` knows no more yet.
    pub fn of(run: RunId, database: impl Into<String>) -> Self {
        let (chain, database) = (CHAIN.to_owned(), database.into());
        Self { chain, run, system_identifier: None, database, verified: None, last_good_checkpoint: None }
    }
}

/// One alert, as it is kept and sent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// Its identity.
    pub id: AlertId,
    /// The run that raised it.
    pub run: RunId,
    /// What it is about.
    pub kind: FindingKind,
    /// What was found.
    pub finding: ChainFinding,
    /// What is sent.
    pub payload: Value,
}

impl Alert {
    /// The alert of `finding`.
    pub fn new(id: AlertId, finding: &ChainFinding, subject: &Subject, key: &[u8], now: DateTime<Utc>) -> Self {
        let mut finding = finding.clone();
        finding.message = finding.message.chars().take(LONGEST_MESSAGE).collect();
        let mut payload = json!({
            "severity": "critical",
            "message": finding.kind.headline(),
            "detail": finding.message,
            "timestamp": now.to_rfc3339_opts(SecondsFormat::Millis, true),
            "alert_id": id,
            "kind": finding.kind,
            "chain": subject.chain,
            "run_id": subject.run,
            "system_identifier": subject.system_identifier,
            "database": subject.database,
            "first_bad": finding.first_bad,
            "expected": finding.expected,
            "actual": finding.actual,
            "bad_rows": finding.bad_rows,
            "verified_range": subject.verified.map(|(first, last)| json!({"first": first, "last": last})),
            "last_good_checkpoint": subject.last_good_checkpoint,
        });
        if canonical(&payload).len() > PAYLOAD_LIMIT - 100 {
            payload["detail"] = json!("see audit.findings");
        }
        payload["hmac"] = json!(hmac(key, canonical(&payload).as_bytes()).to_string());
        Self { id, run: subject.run, kind: finding.kind, finding, payload }
    }
}

/// Whether `payload` was made by somebody who has `key`.
pub fn is_authentic(payload: &Value, key: &[u8]) -> bool {
    let Value::Object(fields) = payload else { return false };
    let mut fields = fields.clone();
    let Some(Value::String(said)) = fields.remove("hmac") else { return false };
    let right = hmac(key, canonical(&Value::Object(fields)).as_bytes());
    // Whole digests of digests are compared, so that time tells nothing of how much is right.
    said.parse::<Digest>().is_ok_and(|said| Digest::of(said.as_bytes()) == Digest::of(right.as_bytes()))
}

/// HMAC-SHA-256 of `message` under `key`.
pub fn hmac(key: &[u8], message: &[u8]) -> Digest {
    let mut block = [0; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(Digest::of(key).as_bytes()),
    }
    let padded = |pad: u8| block.map(|byte| byte ^ pad);
    let mut inner = Hasher::default();
    inner.update(&padded(0x36));
    inner.update(message);
    let mut outer = Hasher::default();
    outer.update(&padded(0x5c));
    outer.update(inner.finish().as_bytes());
    outer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> DateTime<Utc> {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    fn subject() -> Subject {
        let (system_identifier, verified) = (Some("7".into()), Some((1, 9)));
        Subject { system_identifier, verified, ..Subject::of(RunId::new(now()), "d") }
    }

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let told = hmac(b"Jefe", b"what do ya want for nothing?").to_string();
        assert_eq!(told, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
        let long = hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First").to_string();
        assert_eq!(long, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    }

    #[test]
    fn f111_a_payload_that_was_touched_or_made_by_others_is_not_authentic() {
        let finding = ChainFinding::new(FindingKind::RowAltered, "3 rows");
        let alert = Alert::new(AlertId::new(now()), &finding, &subject(), b"key", now());
        assert!(is_authentic(&alert.payload, b"key") && !is_authentic(&alert.payload, b"other"));
        let mut touched = alert.payload.clone();
        touched["bad_rows"] = json!(9);
        assert!(!is_authentic(&touched, b"key"));
        assert!(!is_authentic(&json!({"severity": "critical"}), b"key"));
    }

    #[test]
    fn f108_a_payload_is_within_4_kib_whatever_was_found() {
        for length in [10, 600, 5000] {
            let finding = ChainFinding::new(FindingKind::SchemaChanged, "\u{1}ü\"".repeat(length));
            let alert = Alert::new(AlertId::new(now()), &finding, &subject(), b"key", now());
            assert!(canonical(&alert.payload).len() <= PAYLOAD_LIMIT, "{length}");
            assert_eq!(alert.payload["severity"], "critical");
            assert_eq!(alert.payload["message"], "Audit log protection was changed");
        }
    }
}
