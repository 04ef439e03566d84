//! The integration tests: one binary, real PostgreSQL clusters in temporary directories, real S3 servers.
//!
//! `stage` starts servers and holds test data; every other module tests one thing and reads as sentences.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on should stop"
)]

mod stage;

mod acknowledged;
mod agent_faults;
mod architecture;
mod audit_alerts;
mod audit_attacks;
mod audit_chain;
mod audit_checkpoints;
mod audit_golden;
mod audit_profiles;
mod audit_restore;
mod audit_s3;
mod audit_seals;
mod audit_stage;
mod aws_secret;
mod base_backup;
mod base_expiry;
mod base_failover;
mod base_incremental;
#[cfg(feature = "long")]
mod base_many;
mod base_remote;
#[cfg(feature = "failpoints")]
mod base_resume;
mod base_standby;
mod base_workload;
mod bc003;
mod bc003_data;
mod bc003_server;
mod catalog;
mod check;
mod check_security;
mod check_services;
mod check_wal;
mod checkpoint_history;
mod child;
mod cli;
mod config;
mod config_plan;
mod demo;
mod dump;
mod dump_complete;
mod dump_data_faults;
mod dump_expiry;
mod dump_faults;
mod dump_host_faults;
mod dump_moto;
mod dump_s3;
mod dump_syscalls;
mod durable;
#[cfg(feature = "failpoints")]
mod expire;
mod expire_campaign;
mod expire_wal;
mod failpoint;
mod increment;
mod increment_chain;
mod increment_faults;
mod increment_history;
mod increment_untouched;
mod increment_workload;
mod init;
mod leadership;
mod migration;
mod ownership;
mod partition;
mod partition_convert;
mod partition_faults;
mod partition_plan;
mod pipeline_archive;
mod pipeline_openpgp;
mod pipeline_store;
mod postgres_connection;
mod queries;
mod recover;
mod recover_chain;
mod recover_early;
mod recover_lost;
mod recover_table;
mod recover_targets;
mod recovery_window;
mod restore_database;
mod restore_plan;
mod restore_table;
mod retention;
mod retention_wal;
mod schedule;
mod scheduler;
mod scheduler_history;
mod scheduler_stage;
mod schema;
mod scratch;
mod status;
mod storage_conformance;
mod storage_directory_faults;
mod storage_faults;
mod storage_real_servers;
mod storage_servers;
mod storage_tls;
mod upgrade;
mod wal_agent;
mod wal_archiver;
mod wal_blocks;
mod wal_gaps;
mod wal_guard;
mod wal_store;
mod wal_sync;
mod wal_syscalls;
