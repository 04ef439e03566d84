//! Archiving WAL and giving it back: what `archive_command`, `restore_command` and the job `wal-sync` do.
//!
//! PostgreSQL drives the first two and believes their exit codes; the third finds out whether it still does.

pub mod prefetch;
pub mod push;
pub mod ship;
pub mod sync;
pub mod verify;
