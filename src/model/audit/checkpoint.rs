//! Signed statements of the chain's size and head, and what contradicts them.
//!
//! A checkpoint lies where whoever rules the database does not: a chain that was rewritten whole, its side tables with it, is
//! found because it is not the one that was signed. Checkpoints of one repository name their predecessor by digest.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound as _, Utc};
use serde::{Deserialize, Serialize};

use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::audit::seal::SealedRanges;
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
    /// Digest over the formulas that are pinned for older rows; nothing where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Digest>,
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

    /// What is remembered of it, whose bytes have this digest.
    pub fn mark(&self, digest: Digest) -> Mark {
        let kept = match self.occasion {
            Occasion::Restored { kept, .. } => Some(kept),
            Occasion::Routine | Occasion::Verified => None,
        };
        let verified = self.occasion == Occasion::Verified;
        Mark {
            taken: self.taken.trunc_subsecs(3),
            size: self.size,
            hash: self.hash,
            incarnation: self.incarnation,
            kept,
            verified,
            digest,
        }
    }
}

/// What is remembered of a checkpoint that was read: enough to be held against the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// When the snapshot was taken, to the millisecond.
    pub taken: DateTime<Utc>,
    /// The newest place.
    pub size: i64,
    /// The hash there.
    pub hash: Option<Digest>,
    /// How often the chain was put back on purpose before.
    pub incarnation: u32,
    /// If it was put back right then, the last place that is still as it was signed.
    pub kept: Option<i64>,
    /// Whether every row was verified.
    pub verified: bool,
    /// Digest of its bytes.
    pub digest: Digest,
}

/// Bytes of a mark as it is kept: time, size, incarnation, flags, the last place kept, hash, digest; integers big-endian.
pub const MARK_BYTES: usize = 93;

impl Mark {
    /// As it is kept.
    pub fn to_bytes(&self) -> [u8; MARK_BYTES] {
        let mut bytes = [0; MARK_BYTES];
        let flags = u8::from(self.verified) | u8::from(self.hash.is_some()) << 1 | u8::from(self.kept.is_some()) << 2;
        bytes[..8].copy_from_slice(&self.taken.timestamp_millis().to_be_bytes());
        bytes[8..16].copy_from_slice(&self.size.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.incarnation.to_be_bytes());
        bytes[20] = flags;
        bytes[21..29].copy_from_slice(&self.kept.unwrap_or_default().to_be_bytes());
        bytes[29..61].copy_from_slice(self.hash.as_ref().map_or(&[0; 32], |hash| hash.as_bytes()));
        bytes[61..].copy_from_slice(self.digest.as_bytes());
        bytes
    }

    /// What was kept; nothing for an instant that is none.
    pub fn from_bytes(bytes: &[u8; MARK_BYTES]) -> Option<Self> {
        let number = |at: usize| Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let digest = |at: usize| Some(Digest::from(<[u8; 32]>::try_from(bytes.get(at..at + 32)?).ok()?));
        let flag = |bit: u8| bytes[20] >> bit & 1 == 1;
        Some(Self {
            taken: DateTime::from_timestamp_millis(number(0)?)?,
            size: number(8)?,
            hash: digest(29).filter(|_| flag(1)),
            incarnation: u32::from_be_bytes(bytes.get(16..20)?.try_into().ok()?),
            kept: number(21).filter(|_| flag(2)),
            verified: flag(0),
            digest: digest(61)?,
        })
    }
}

/// For each incarnation, the last place that counts of what was signed in it: what restores that were stated later have kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept(BTreeMap<u32, i64>);

impl Kept {
    /// From all marks of one repository.
    pub fn of(marks: &[Mark]) -> Self {
        let mut kept = BTreeMap::new();
        for (incarnation, place) in marks.iter().filter_map(|mark| Some((mark.incarnation, mark.kept?))) {
            let least = kept.entry(incarnation).or_insert(place);
            *least = place.min(*least);
        }
        Self(kept)
    }

    /// Whether what was signed of `place` under `incarnation` still has to hold.
    pub fn counts(&self, incarnation: u32, place: i64) -> bool {
        self.0.range(incarnation.saturating_add(1)..).all(|(_, kept)| place <= *kept)
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
    /// What is sealed and gone.
    pub sealed: &'a SealedRanges,
    /// Which database.
    pub origin: &'a Origin,
}

/// What contradicts `signed` (oldest first, of one repository; the newest was taken at `last`): a chain that is shorter, or
/// another one. `hash_at` gives the hash at a place that a checkpoint names.
pub fn contradictions(
    signed: &[Mark],
    last: &Origin,
    present: &Present<'_>,
    hash_at: impl Fn(i64) -> Option<Digest>,
) -> Vec<ChainFinding> {
    let kept = Kept::of(signed);
    let counts = |mark: &&Mark| mark.size > 0 && kept.counts(mark.incarnation, mark.size);
    let turned_back = present.origin.has_turned_back_since(last);
    let mut findings = Vec::new();
    if let Some(longest) = signed.iter().filter(counts).max_by_key(|mark| mark.size)
        && longest.size > present.size
    {
        findings.push(shorter(longest, present, turned_back));
    }
    let hash_at = |seq| hash_at(seq).or_else(|| present.sealed.tail_at(seq));
    // What was signed of a place inside a sealed stretch was compared when the stretch was sealed.
    let is_known = |seq| hash_at(seq).is_some() || !present.sealed.covers(seq);
    let here = |mark: &&Mark| mark.size <= present.size && is_known(mark.size);
    let good = |mark: &Mark| hash_at(mark.size) == mark.hash;
    let bad = signed.iter().filter(counts).filter(here).filter(|mark| !good(mark)).min_by_key(|mark| mark.size);
    if let Some(bad) = bad {
        let before = signed.iter().filter(counts).filter(|mark| mark.size < bad.size && good(mark));
        let before = before.map(|mark| mark.size).max().unwrap_or(present.sealed.beginning());
        findings.push(rewritten(bad, before, present, turned_back, hash_at(bad.size)));
    }
    findings
}

/// The last place at which the chain is as it was signed.
pub fn last_agreed(signed: &[Mark], hash_at: impl Fn(i64) -> Option<Digest>) -> i64 {
    let agreed = signed.iter().filter(|mark| mark.size > 0 && hash_at(mark.size) == mark.hash);
    agreed.map(|mark| mark.size).max().unwrap_or_default()
}

/// Where a chain became shorter from one checkpoint to the next without anybody saying that it was meant, in words.
pub fn shrinkage(signed: &[Mark]) -> Option<String> {
    let time = |mark: &Mark| mark.taken.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let mut longest: Option<&Mark> = None;
    // What a verification signs is the chain of its snapshot, which may be older than the checkpoint before it.
    for after in signed.iter().filter(|mark| !mark.verified) {
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

fn shorter(longest: &Mark, present: &Present<'_>, turned_back: bool) -> ChainFinding {
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

fn rewritten(bad: &Mark, good: i64, present: &Present<'_>, turned_back: bool, now: Option<Digest>) -> ChainFinding {
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
    use crate::model::audit::counted::digest;

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
            profiles: None,
            configuration: digest(0),
            taken,
            previous: None,
        }
    }

    fn marks(signed: &[Checkpoint]) -> Vec<Mark> {
        signed.iter().map(|checkpoint| checkpoint.mark(digest(0))).collect()
    }

    fn judged(signed: &[Checkpoint], size: i64, lsn: u64, altered_from: i64) -> Vec<(FindingKind, Option<i64>)> {
        let origin = origin(lsn);
        let present = Present { size, sealed: &SealedRanges::default(), origin: &origin };
        let hash_at = |seq: i64| (seq <= size).then(|| if seq >= altered_from { digest(-seq) } else { digest(seq) });
        let last = signed.last().map_or_else(Origin::default, |checkpoint| checkpoint.origin.clone());
        contradictions(&marks(signed), &last, &present, hash_at)
            .iter()
            .map(|found| (found.kind, found.first_bad.seq))
            .collect()
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
        assert_eq!(last_agreed(&marks(&all), |seq| (seq < 25).then(|| digest(seq))), 20);
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
        assert_eq!(shrinkage(&marks(&all)), None);
        let mut cut = all.clone();
        cut.push(signed(15));
        assert!(shrinkage(&marks(&cut)).unwrap().contains("had 20 rows"), "{cut:?}");
        cut[4].incarnation = 1;
        assert_eq!(shrinkage(&marks(&cut)), None);
        let mut verified = all;
        verified.push(Checkpoint { occasion: Occasion::Verified, ..signed(15) });
        assert_eq!(shrinkage(&marks(&verified)), None);
    }

    #[test]
    fn a_mark_is_kept_and_comes_back() {
        let occasion = Occasion::Restored { reason: "drill".into(), kept: 3 };
        for checkpoint in [signed(0), signed(7), Checkpoint { occasion, incarnation: 9, ..signed(5) }] {
            let mark = checkpoint.mark(digest(4));
            assert_eq!(Mark::from_bytes(&mark.to_bytes()), Some(mark));
        }
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
