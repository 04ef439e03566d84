//! The verbs, one file or folder each: Options -> Plan -> Outcome.
//!
//! A verb gets opened doors and plain values, tells events while it works and gives an outcome back. It never prints,
//! reads configuration or imports another verb; what two verbs share is a step.

pub mod alert;
pub mod audit_backfill;
pub mod audit_checkpoint;
pub mod audit_golden;
pub mod audit_install;
pub mod audit_prove;
pub mod audit_rebuild;
pub mod audit_verify;
pub mod audit_witness;
pub mod backup;
pub mod base_backup;
pub mod check;
pub mod complete;
pub mod dump;
pub mod expire;
pub mod increment;
pub mod partition;
pub mod recover;
pub mod restore;
pub mod status;
pub mod wal;

pub use crate::steps::Setting;
