//! The audit chain in the database: one snapshot for all who read it, its rows and places as they stream by, what is
//! wrong with it in SQL's words, its schema as it stands.
//!
//! Reads only, but for `outbox`, `settle`, `profiles` and what installs. Must not decide anything: what a difference means is
//! the verb's concern. Nothing here is shared with the trigger.

pub mod diagnosis;
pub mod outbox;
pub mod profiles;
pub mod schema;
pub mod seals;
pub mod settle;
pub mod snapshot;
pub mod vectors;

pub use diagnosis::{Damage, DamageClass};
pub use snapshot::{ChainSnapshot, Partition, Reader, is_installed};
