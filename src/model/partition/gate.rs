//! The gate before a partition goes: what must be there, and what is told when it is not.
//!
//! verify -> archive -> read back -> (audit: seal) -> detach -> drop. Whoever asks brings evidence as plain values; without
//! it the gate is shut. A seal is such a value: a row that the agent recorded in `audit.seals` after it had signed it.

use crate::model::digest::TableSum;
use crate::model::id::ArtifactId;
use crate::model::outcome::{Finding, Severity};
use crate::model::partition::{Retire, Rule};

/// An archive of one partition, whose stored bytes were just read back in every repository that must have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Archive {
    /// The artifact.
    pub id: ArtifactId,
    /// What its rows add up to.
    pub content: TableSum,
}

/// A recorded seal of one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The rows it speaks of.
    pub rows: u64,
    /// The archive it speaks of, where it names one.
    pub artifact: Option<ArtifactId>,
}

/// A foreign key by which rows elsewhere refer to rows of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Table and name of the constraint.
    pub constraint: String,
    /// How many rows refer.
    pub rows: u64,
}

/// What is known when a partition is about to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// What its rows add up to now; absent when nobody has looked.
    pub content: Option<TableSum>,
    /// The archive.
    pub archive: Option<Archive>,
    /// The seal.
    pub seal: Option<Seal>,
    /// Rows elsewhere that refer to it.
    pub references: Vec<Reference>,
}

/// Why a partition may not go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no archive that was read back.
    NoArchive,
    /// The archive's rows are not those of the partition.
    OtherContent,
    /// There is no seal.
    NoSeal,
    /// The seal speaks of other rows or of another archive.
    OtherSeal,
    /// Rows elsewhere refer to it.
    Referenced(Reference),
}

/// Whether the partition may go: everything that is missing, nothing when it may. The strictest reading counts: an
/// archive that is there although the rule asks for none must hold all the same.
pub fn gate(rule: &Rule, evidence: &Evidence) -> Vec<Refusal> {
    let mut refusals = Vec::new();
    match &evidence.archive {
        None if rule.archive || rule.seal => refusals.push(Refusal::NoArchive),
        Some(archive) if evidence.content != Some(archive.content) => refusals.push(Refusal::OtherContent),
        _ => {}
    }
    if rule.seal {
        let artifact = evidence.archive.as_ref().map(|archive| archive.id);
        match &evidence.seal {
            None => refusals.push(Refusal::NoSeal),
            Some(seal) => {
                let same_rows = evidence.content.is_some_and(|content| content.rows == seal.rows);
                let same_archive = seal.artifact.is_none() || seal.artifact == artifact;
                if !same_rows || !same_archive {
                    refusals.push(Refusal::OtherSeal);
                }
            }
        }
    }
    refusals.extend(evidence.references.iter().cloned().map(Refusal::Referenced));
    refusals
}

impl Refusal {
    /// What is told of it.
    pub fn finding(&self, retire: &Retire) -> Finding {
        let table = &retire.partition.table;
        let (code, why, remedy) = match self {
            Self::NoArchive => (
                "partition-not-archived",
                "needs an archive: none that could be read back whole is in every repository".to_owned(),
                "see why the archive could not be made; nothing is dropped before it is",
            ),
            Self::OtherContent => (
                "partition-changed",
                "has other rows than its archive: somebody writes to it".to_owned(),
                "find out who; the next run archives it anew",
            ),
            Self::NoSeal => (
                "partition-not-sealed",
                "needs a seal: its archive is there, and no signed seal of it is recorded".to_owned(),
                "dbagent audit seal",
            ),
            Self::OtherSeal => (
                "partition-seal-differs",
                "needs a seal: the recorded one speaks of other rows or of another archive".to_owned(),
                "verify the chain (`dbagent audit verify`) before anything else: rows may have been altered",
            ),
            Self::Referenced(Reference { constraint, rows }) => (
                "partition-referenced",
                format!("has rows that others refer to: {rows} by {constraint}"),
                "delete or move the rows that refer to it, or drop the foreign key; nothing is ever cascaded",
            ),
        };
        Finding::new(Severity::Critical, code, format!("{table} is not dropped ({retire}): it {why}")).remedy(remedy)
    }
}
