//! Signed statements of the chain's size and head, and what contradicts them.
//!
//! A checkpoint lies where whoever rules the database does not: a chain that was rewritten whole, its side tables with it, is
//! found because it is not the one that was signed. Checkpoints of one repository name their predecessor by digest.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::digest::Digest;
use crate::model::lsn::{Lsn, SystemId, Timeline};

/// Format number of the document.
pub const FORMAT: u32 = 1;

/// Why it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// Its time had come.
    Routine,
    /// A verification of every row had found nothing.
    Verified,
    /// The chain was put back on purpose: what was signed before of places beyond `kept` no longer counts.
    Restored {
        /// Why, in words.
        reason: String,
        /// The last place that is still as it was signed.
        kept: i64,
    },
}

/// Which database, and where it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// The database.
    pub database: String,
    /// Its oid.
    pub database_oid: u32,
    /// The cluster's own identifier, where the role may read it.
    pub system_identifier: Option<SystemId>,
    /// The timeline, where the role may read it.
    pub timeline: Option<Timeline>,
    /// The position of the write-ahead log, where the role may read it.
    pub lsn: Option<Lsn>,
    /// The snapshot the checkpoint was taken on.
    pub snapshot: String,
}

impl Origin {
    /// Whether a database here is not simply a later state of the one that was `then`.
    pub fn has_turned_back_since(&self, then: &Self) -> bool {
        let other = (&self.database_oid, &self.system_identifier, &self.timeline)
            != (&then.database_oid, &then.system_identifier, &then.timeline);
        other || matches!((self.lsn, then.lsn), (Some(now), Some(then)) if now < then)
    }
}

/// A signed statement of the chain's size and head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Format number.
    pub format: u32,
    /// The chain.
    pub chain: String,
    /// Why it was written.
    pub occasion: Occasion,
    /// How often the chain was put back on purpose before.
    pub incarnation: u32,
    /// The newest place.
    pub size: i64,
    /// The hash there; nothing of an empty chain.
    pub hash: Option<Digest>,
    /// Rows by partition.
    pub partitions: BTreeMap<String, u64>,
    /// Which database.
    pub origin: Origin,
    /// Digest over the chain's protection as it stands.
    pub schema: Digest,
    /// Digest of the agent's configuration.
    pub configuration: Digest,
    /// When the snapshot was taken.
    pub taken: DateTime<Utc>,
    /// Digest of the checkpoint before it in the same repository.
    pub previous: Option<Digest>,
}

impl Checkpoint {
    /// The bytes that are signed: JSON with keys in order and no blanks (RFC 8785 for what is in it: no fractions).
    pub fn canonical(&self) -> Result<Vec<u8>, serde_json::Error> {
        Ok(canonical(&serde_json::to_value(self)?).into_bytes())
    }

    /// The last place that it let stand of what was signed before, if the chain was put back on purpose.
    fn kept(&self) -> Option<i64> {
        match self.occasion {
            Occasion::Restored { kept, .. } => Some(kept),
            Occasion::Routine | Occasion::Verified => None,
        }
    }
}

/// `value` with the keys of every object in order and no blanks.
pub fn canonical(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by(|a, b| a.0.encode_utf16().cmp(b.0.encode_utf16()));
            let each = |(key, value): (&String, &Value)| format!("{}:{}", Value::from(key.as_str()), canonical(value));
            format!("{{{}}}", fields.into_iter().map(each).collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}

/// The chain as it is now, to be held against checkpoints.
#[derive(Debug)]
pub struct Present<'a> {
    /// The newest place.
    pub size: i64,
    /// The first place that is not sealed and gone.
    pub first: i64,
    /// Which database.
    pub origin: &'a Origin,
}

/// What contradicts `signed` (oldest first, of one repository): a chain that is shorter, or another one. `hash_at` gives
/// the hash at a place that a checkpoint names.
pub fn contradictions(
    signed: &[Checkpoint],
    present: &Present<'_>,
    hash_at: impl Fn(i64) -> Option<Digest>,
) -> Vec<ChainFinding> {
    let counting: Vec<&Checkpoint> = signed.iter().filter(|checkpoint| counts(checkpoint, signed)).collect();
    let Some(newest) = counting.last() else { return Vec::new() };
    let turned_back = present.origin.has_turned_back_since(&newest.origin);
    let mut findings = Vec::new();
    if let Some(longest) = counting.iter().max_by_key(|checkpoint| checkpoint.size)
        && longest.size > present.size
    {
        findings.push(shorter(longest, present, turned_back));
    }
    let here = |checkpoint: &&&Checkpoint| checkpoint.size >= present.first && checkpoint.size <= present.size;
    let good = |checkpoint: &Checkpoint| hash_at(checkpoint.size) == checkpoint.hash;
    let bad =
        counting.iter().filter(here).filter(|checkpoint| !good(checkpoint)).min_by_key(|checkpoint| checkpoint.size);
    if let Some(bad) = bad {
        let before = counting.iter().filter(|checkpoint| checkpoint.size < bad.size && good(checkpoint));
        let before = before.map(|checkpoint| checkpoint.size).max().unwrap_or(present.first - 1);
        findings.push(rewritten(bad, before, present, turned_back, hash_at(bad.size)));
    }
    findings
}

/// Whether what `checkpoint` says still has to hold: it was not put back behind by a later restore.
fn counts(checkpoint: &Checkpoint, signed: &[Checkpoint]) -> bool {
    let later = signed.iter().filter(|other| other.incarnation > checkpoint.incarnation);
    checkpoint.size > 0 && later.filter_map(Checkpoint::kept).min().is_none_or(|kept| checkpoint.size <= kept)
}

/// The last place at which the chain is as it was signed.
pub fn last_agreed(signed: &[Checkpoint], hash_at: impl Fn(i64) -> Option<Digest>) -> i64 {
    let agreed = signed.iter().filter(|checkpoint| checkpoint.size > 0 && hash_at(checkpoint.size) == checkpoint.hash);
    agreed.map(|checkpoint| checkpoint.size).max().unwrap_or_default()
}

/// Where a chain became shorter from one checkpoint to the next without anybody saying that it was meant, in words.
pub fn shrinkage(signed: &[Checkpoint]) -> Option<String> {
    let time = |checkpoint: &Checkpoint| checkpoint.taken.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut longest: Option<&Checkpoint> = None;
    // What a verification signs is the chain of its snapshot, which may be older than the checkpoint before it.
    for after in signed.iter().filter(|checkpoint| checkpoint.occasion != Occasion::Verified) {
        match longest {
            Some(before) if after.size < before.size && after.incarnation == before.incarnation => {
                let (then, now) = (time(before), time(after));
                return Some(format!("the chain had {} rows at {then} and {} at {now}", before.size, after.size));
            }
            _ => longest = Some(after),
        }
    }
    None
}

fn shorter(longest: &Checkpoint, present: &Present<'_>, turned_back: bool) -> ChainFinding {
    let rows = u64::try_from(longest.size - present.size).unwrap_or_default();
    let signed = longest.taken.format("%Y-%m-%dT%H:%M:%SZ");
    let (kind, what) = match turned_back {
        true => (FindingKind::Rollback, "the database was put back: "),
        false => (FindingKind::TailCut, ""),
    };
    let message = format!("{what}{rows} rows are gone that the checkpoint of {signed} has signed");
    let first = FirstBad { seq: Some(present.size + 1), ..FirstBad::default() };
    let finding = ChainFinding::new(kind, message).rows(first, rows);
    finding.differs(Some(longest.size.to_string()), Some(present.size.to_string()))
}

fn rewritten(
    bad: &Checkpoint,
    good: i64,
    present: &Present<'_>,
    turned_back: bool,
    now: Option<Digest>,
) -> ChainFinding {
    let signed = bad.taken.format("%Y-%m-%dT%H:%M:%SZ");
    let kind = if turned_back { FindingKind::Rollback } else { FindingKind::HistoryRewritten };
    let message = format!(
        "the chain is not the one that the checkpoint of {signed} has signed: it differs between {} and {}",
        good + 1,
        bad.size
    );
    let first = FirstBad { seq: Some(good + 1), ..FirstBad::default() };
    let rows = u64::try_from(present.size - good).unwrap_or_default();
    let text = |hash: Option<Digest>| hash.map(|hash| hash.to_string());
    ChainFinding::new(kind, message).rows(first, rows).differs(text(bad.hash), text(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: i64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    fn origin(lsn: u64) -> Origin {
        Origin { cluster: "c".into(), database: "d".into(), lsn: Some(Lsn(lsn)), ..Origin::default() }
    }

    fn signed(size: i64) -> Checkpoint {
        let hash = (size > 0).then(|| digest(size));
        let taken = DateTime::from_timestamp(1_800_000_000 + size, 0).unwrap();
        Checkpoint {
            format: FORMAT,
            chain: "audit_logs".into(),
            occasion: Occasion::Routine,
            incarnation: 0,
            size,
            hash,
            partitions: BTreeMap::from([("p".to_owned(), 1)]),
            origin: origin(size.unsigned_abs()),
            schema: digest(0),
            configuration: digest(0),
            taken,
            previous: None,
        }
    }

    fn judged(signed: &[Checkpoint], size: i64, lsn: u64, altered_from: i64) -> Vec<(FindingKind, Option<i64>)> {
        let origin = origin(lsn);
        let present = Present { size, first: 1, origin: &origin };
        let hash_at = |seq: i64| (seq <= size).then(|| if seq >= altered_from { digest(-seq) } else { digest(seq) });
        contradictions(signed, &present, hash_at).iter().map(|found| (found.kind, found.first_bad.seq)).collect()
    }

    #[test]
    fn a_chain_that_only_grew_contradicts_nothing() {
        let all: Vec<_> = [0, 10, 10, 20].map(signed).into();
        assert_eq!(judged(&all, 25, 99, i64::MAX), []);
        assert_eq!(judged(&[], 0, 0, i64::MAX), []);
    }

    #[test]
    fn a_cut_tail_a_rewritten_history_and_an_older_database_are_told_apart() {
        let all: Vec<_> = [0, 10, 20].map(signed).into();
        assert_eq!(judged(&all, 15, 99, i64::MAX), [(FindingKind::TailCut, Some(16))]);
        assert_eq!(judged(&all, 25, 99, 13), [(FindingKind::HistoryRewritten, Some(11))]);
        assert_eq!(judged(&all, 25, 99, 5), [(FindingKind::HistoryRewritten, Some(1))]);
        assert_eq!(judged(&all, 15, 12, i64::MAX), [(FindingKind::Rollback, Some(16))]);
        assert_eq!(judged(&all, 25, 12, 15), [(FindingKind::Rollback, Some(11))], "put back and gone on");
    }

    #[test]
    fn after_a_restore_on_purpose_only_what_it_kept_counts() {
        let mut all: Vec<_> = [10, 20, 30].map(signed).into();
        assert_eq!(last_agreed(&all, |seq| (seq < 25).then(|| digest(seq))), 20);
        let occasion = Occasion::Restored { reason: "drill".into(), kept: 20 };
        let restored = Checkpoint { occasion, incarnation: 1, ..signed(21) };
        all.push(restored);
        assert_eq!(judged(&all, 22, 99, i64::MAX), []);
        assert_eq!(judged(&all, 19, 99, i64::MAX), [(FindingKind::TailCut, Some(20))]);
        assert_eq!(judged(&all, 20, 99, i64::MAX), [(FindingKind::TailCut, Some(21))]);
        assert_eq!(judged(&all, 22, 99, 7), [(FindingKind::HistoryRewritten, Some(1))]);
        all.push(Checkpoint { incarnation: 1, ..signed(28) });
        assert_eq!(judged(&all, 27, 99, i64::MAX), [(FindingKind::TailCut, Some(28))]);
    }

    #[test]
    fn a_chain_that_becomes_shorter_is_told_unless_it_was_meant() {
        let all: Vec<_> = [0, 10, 10, 20].map(signed).into();
        assert_eq!(shrinkage(&all), None);
        let mut cut = all.clone();
        cut.push(signed(15));
        assert!(shrinkage(&cut).unwrap().contains("had 20 rows"), "{cut:?}");
        cut[4].incarnation = 1;
        assert_eq!(shrinkage(&cut), None);
        let mut verified = all;
        verified.push(Checkpoint { occasion: Occasion::Verified, ..signed(15) });
        assert_eq!(shrinkage(&verified), None);
    }

    #[test]
    fn canonical_json_has_its_keys_in_order_and_survives_reading() {
        let checkpoint = signed(3);
        let bytes = checkpoint.canonical().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        assert!(text.starts_with("{\"chain\":\"audit_logs\",\"configuration\":") && !text.contains(": "), "{text}");
        let read: Checkpoint = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((read.canonical().unwrap(), read), (bytes, checkpoint));
        let value = serde_json::json!({"b": [1, {"z": null, "a": "x\"y"}], "a": true});
        assert_eq!(canonical(&value), r#"{"a":true,"b":[1,{"a":"x\"y","z":null}]}"#);
    }
}
