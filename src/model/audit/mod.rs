//! The audit chain as plain values: a row's canonical bytes, how rows link up, what can be wrong, what is signed.
//!
//! Pure rules only. The verifier is built on this room; the trigger that makes the chain is SQL (`sql/schema/`) and
//! shares nothing with it but the profile's definition and the vectors that both are tested with.

pub mod alert;
pub mod checkpoint;
pub mod finding;
pub mod link;
pub mod merkle;
pub mod placing;
pub mod profile;
pub mod proof;
pub mod row;
pub mod seal;
pub mod tally;
pub mod vectors;

/// The chain of `public.audit_logs`, as its head, its checkpoints and its alerts name it.
pub const CHAIN: &str = "audit_logs";

/// A chain for unit tests: the hash of each place is the digest of its number.
#[cfg(test)]
pub(crate) mod counted {
    use super::seal::Stretch;
    use crate::model::digest::Digest;

    pub(crate) fn digest(number: i64) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    pub(crate) fn stretch(first: i64, last: i64) -> Stretch {
        Stretch { first, last, after: (first > 1).then(|| digest(first - 1)), tail: digest(last) }
    }
}
