//! dbagent keeps a PostgreSQL cluster recoverable, tidy and honest.
//!
//! A house along the flow of data, lower floors first: `model` and `config` (plain values), `host`, `storage` and
//! `postgres` (one door each to the outside world), `pipeline` and `catalog` (bytes on their way; what exists),
//! `steps` and `ops` (the verbs), `scheduler` and `app` (who runs when; wiring), `cli` (people and exit codes).
//! `tests/it/architecture.rs` holds the imports against that order.

pub mod app;
pub mod catalog;
pub mod cli;
pub mod config;
pub mod host;
pub mod model;
pub mod ops;
pub mod pipeline;
pub mod postgres;
pub mod scheduler;
pub mod steps;
pub mod storage;
