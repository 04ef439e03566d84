//! What can be wrong with the audit chain: a closed set of kinds, each with the first bad row and how many there are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::model::outcome::{Finding, Severity};

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FindingKind {
    /// A row's content is not what was hashed, or its hash is not the one recorded for its place.
    RowAltered,
    /// A row does not follow the one before it.
    LinkBroken,
    /// Two rows follow the same one.
    Fork,
    /// A row that has a place in the chain is not in the log.
    RowMissing,
    /// A row of the log has no place in the chain.
    RowExtra,
    /// The newest rows are gone.
    TailCut,
    /// The chain is whole and is not the one that was signed.
    HistoryRewritten,
    /// The database was put back to an earlier state.
    Rollback,
    /// A partition is gone without a seal.
    UnsealedRemoval,
    /// The chain's tables, trigger, functions, owners or privileges are not as installed.
    SchemaChanged,
    /// A signed checkpoint is missing, late, or not the one that follows its predecessor.
    CheckpointMissing,
    /// The verification did not run to its end: nothing is known.
    VerifyFailedToRun,
}

impl FindingKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 12] = [
        Self::RowAltered,
        Self::LinkBroken,
        Self::Fork,
        Self::RowMissing,
        Self::RowExtra,
        Self::TailCut,
        Self::HistoryRewritten,
        Self::Rollback,
        Self::UnsealedRemoval,
        Self::SchemaChanged,
        Self::CheckpointMissing,
        Self::VerifyFailedToRun,
    ];

    /// The name in alerts, findings and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::RowAltered => "ROW_ALTERED",
            Self::LinkBroken => "LINK_BROKEN",
            Self::Fork => "FORK",
            Self::RowMissing => "ROW_MISSING",
            Self::RowExtra => "ROW_EXTRA",
            Self::TailCut => "TAIL_CUT",
            Self::HistoryRewritten => "HISTORY_REWRITTEN",
            Self::Rollback => "ROLLBACK",
            Self::UnsealedRemoval => "UNSEALED_REMOVAL",
            Self::SchemaChanged => "SCHEMA_CHANGED",
            Self::CheckpointMissing => "CHECKPOINT_MISSING",
            Self::VerifyFailedToRun => "VERIFY_FAILED_TO_RUN",
        }
    }

    /// The alert's message, the same words for the same kind.
    pub fn headline(self) -> &'static str {
        match self {
            Self::SchemaChanged => "Audit log protection was changed",
            Self::CheckpointMissing => "Audit log checkpoints are missing",
            Self::VerifyFailedToRun => "Audit log hash chain verification did not run",
            _ => "Audit log hash chain verification failed",
        }
    }
}

impl fmt::Display for FindingKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The first row that is bad, as far as it is known: it may be gone, or have no place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstBad {
    /// Its place in the chain.
    pub seq: Option<i64>,
    /// Its id, a uuid.
    pub id: Option<String>,
    /// Its time, as PostgreSQL prints it, UTC.
    pub recorded_at: Option<String>,
    /// The partition it lies in, or lay in.
    pub partition: Option<String>,
}

/// One kind of damage, however many rows have it. Holds no content of rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainFinding {
    /// What is wrong.
    pub kind: FindingKind,
    /// In words, with what was found on what.
    pub message: String,
    /// The first bad row.
    pub first_bad: FirstBad,
    /// How many rows are bad in this way; 0 where no row is meant.
    pub bad_rows: u64,
    /// What it should be: a hash, a number.
    pub expected: Option<String>,
    /// What it is.
    pub actual: Option<String>,
}

impl ChainFinding {
    /// A finding that is about no particular row.
    pub fn new(kind: FindingKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            first_bad: FirstBad::default(),
            bad_rows: 0,
            expected: None,
            actual: None,
        }
    }

    /// The same about rows, `first` the first of `count`.
    pub fn rows(mut self, first: FirstBad, count: u64) -> Self {
        self.first_bad = first;
        self.bad_rows = count;
        self
    }

    /// The same with what was expected and what there is.
    pub fn differs(mut self, expected: Option<String>, actual: Option<String>) -> Self {
        self.expected = expected;
        self.actual = actual;
        self
    }

    /// As an outcome shows it. The code is the kind's name.
    pub fn to_finding(&self) -> Finding {
        let mut message = format!("{}: {}", self.kind, self.message);
        if let Some(seq) = self.first_bad.seq {
            message.push_str(&format!(" (first at seq {seq}"));
            let parts = [("id", &self.first_bad.id), ("in", &self.first_bad.partition)];
            parts.iter().filter_map(|(word, value)| Some((word, value.as_ref()?))).for_each(|(word, value)| {
                message.push_str(&format!(", {word} {value}"));
            });
            message.push(')');
        }
        Finding::new(Severity::Critical, self.kind.name(), message)
            .remedy("follow deploy/runbooks/tampering-detected.md; `dbagent alert list` shows what is not acknowledged")
    }
}

/// One finding of each kind, in the order of kinds: the one whose row comes first, with how many more there are and what the
/// next one says. Findings about the same row, which several repositories may tell, count its rows once.
pub fn fold(findings: &[ChainFinding]) -> Vec<ChainFinding> {
    let mut sorted: Vec<&ChainFinding> = findings.iter().collect();
    sorted.sort_by_key(|finding| (finding.kind, finding.first_bad.seq.unwrap_or(i64::MAX)));
    sorted.chunk_by(|one, other| one.kind == other.kind).filter_map(fold_kind).collect()
}

fn fold_kind(same: &[&ChainFinding]) -> Option<ChainFinding> {
    let (first, rest) = same.split_first()?;
    let mut folded = (*first).clone();
    let mut counted = vec![&first.first_bad];
    for other in rest {
        match counted.contains(&&other.first_bad) {
            true => folded.bad_rows = folded.bad_rows.max(other.bad_rows),
            false => folded.bad_rows = folded.bad_rows.saturating_add(other.bad_rows),
        }
        counted.push(&other.first_bad);
    }
    if let Some(next) = rest.iter().find(|other| other.message != first.message) {
        folded.message.push_str(&format!(" (and {} more: {})", rest.len(), next.message));
    }
    Some(folded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f112_findings_of_one_kind_are_one_with_the_first_row_and_the_rows_of_all() {
        let row = |seq: i64| FirstBad { seq: Some(seq), ..FirstBad::default() };
        let missing = |seq: i64, rows: u64| {
            ChainFinding::new(FindingKind::RowMissing, format!("{rows} rows are gone")).rows(row(seq), rows)
        };
        let all = [
            ChainFinding::new(FindingKind::CheckpointMissing, "one in s3"),
            missing(70, 2),
            missing(30, 5),
            missing(30, 5),
            ChainFinding::new(FindingKind::CheckpointMissing, "one in local"),
        ];
        let folded = fold(&all);
        assert_eq!(folded.len(), 2);
        assert_eq!((folded[0].first_bad.seq, folded[0].bad_rows), (Some(30), 7));
        assert_eq!(folded[0].message, "5 rows are gone (and 2 more: 2 rows are gone)");
        assert_eq!(folded[1].message, "one in s3 (and 1 more: one in local)", "nothing of another repository is lost");
        assert_eq!(fold(&folded), folded, "folded once is folded");
    }

    #[test]
    fn a_kind_has_one_name_everywhere() {
        for kind in FindingKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }

    #[test]
    fn a_finding_names_the_first_bad_row() {
        let first = FirstBad { seq: Some(7), partition: Some("audit_logs_2026_01".into()), ..FirstBad::default() };
        let finding = ChainFinding::new(FindingKind::RowAltered, "3 rows are not what was hashed").rows(first, 3);
        let message = finding.to_finding().message;
        assert!(message.ends_with("hashed (first at seq 7, in audit_logs_2026_01)"), "{message}");
    }
}
