//! What exists: manifests, the signed log of catalog entries, and the protocol that adds to them.
//!
//! The repository is the catalog: everything here can be rebuilt from it. Must not move artifact bytes (`pipeline`)
//! nor ask the database anything (`postgres`).

pub mod chain;
pub mod checkpoint_history;
mod checkpoint_memory;
pub mod checkpoints;
pub mod drills;
pub mod entry;
mod envelope;
pub mod error;
mod fetch_each;
pub mod history;
pub mod identity;
pub mod inventory;
pub mod lease;
pub mod log;
pub mod memory;
pub mod names;
pub mod repository;
pub mod seals;
pub mod select;
pub mod signature;
pub mod term;
pub mod wal;

pub use checkpoint_history::{CheckpointHistory, Reading};
pub use checkpoints::StoredCheckpoint;
pub use entry::{Entry, Head, Record};
pub use error::{CatalogError, CatalogErrorKind};
pub use identity::Identity;
pub use inventory::{Artifact, Inventory, Unsigned};
pub use names::ArtifactName;
pub use repository::{Committed, Repository};
pub use seals::{Seals, StoredSeal};
pub use select::Selector;
pub use signature::{Signer, Verifier};
pub use term::Term;
