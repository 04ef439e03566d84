//! Plain values and pure rules: everything that has a format or a decision and needs nothing else.
//!
//! Must not touch tokio, files, the clock or the environment: `now` comes in as a parameter.
//! Every newtype here is made by parsing; what parsed is valid for as long as it lives.

pub mod audit;
pub mod base;
pub mod blocks;
pub mod buckets;
pub mod chain;
pub mod chain_status;
pub mod copy_binary;
pub mod copy_text;
pub mod cost;
pub mod digest;
pub mod drill;
pub mod eras;
pub mod event;
pub mod failure;
pub mod id;
pub mod instant;
pub mod keep;
pub mod key;
pub mod key_text;
pub mod lineage;
pub mod lsn;
pub mod manifest;
pub mod outcome;
pub mod pace;
pub mod pages;
pub mod partition;
pub mod retention;
pub mod schedule;
pub mod side;
pub mod size;
pub mod span;
pub mod status;
pub mod table;
pub mod timeline;
pub mod verb;
pub mod wal;
pub mod wal_retention;
pub mod window;
