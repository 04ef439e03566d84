//! Which blocks the log touches: a summary for each segment that passes by, kept on this machine in the clear.
//!
//! The agent cannot decrypt what it stored, so that incremental backups read these copies; they hold numbers of relations
//! and blocks, no row data. Losing them loses no backup: what pg_wal still has is read again, and otherwise the next base
//! backup is a full one and says why.

mod local;
mod summarize;

pub use local::{BlockStore, history_in};
pub(in crate::steps) use summarize::before as reader_before;
pub use summarize::{Read, summarize};
