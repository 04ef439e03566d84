//! The door to PostgreSQL: connections, facts about the server, the coordinator of a dump, the client tools' arguments.
//!
//! Must not know storage, encryption or the verbs. Queries live in `sql/`, one per file, and are read at build time.
//! The surprising thing: what is to be dumped is found and locked before the snapshot is taken, never after.

pub mod archive_list;
pub mod archiver;
pub mod audit;
pub mod base_backup;
pub mod changes;
pub mod connection;
pub mod control;
pub mod coordinator;
pub mod copy;
pub mod databases;
pub mod difference;
pub mod environment;
pub mod error;
pub mod facts;
mod failure;
pub mod file_tree;
pub mod large_objects;
pub mod leader;
pub mod listen;
pub mod page;
mod parameters;
pub mod partitions;
mod passfile;
pub mod pg_basebackup;
pub mod pg_dump;
pub mod pg_restore;
pub mod relation_file;
pub mod request;
pub mod schema;
mod server;
pub mod tables;
mod tls;
pub mod tools;
pub mod wal_blocks;
pub mod wal_commits;
pub mod wal_files;
pub mod wal_page;
pub mod wal_records;
pub mod wal_tablespaces;

pub use base_backup::{BackupSession, BaseFacts, Stopped};
pub use connection::{Connection, Host, Session, SslMode};
pub use coordinator::{Coordinator, CoveredTable, DumpScope};
pub use environment::ChildEnvironment;
pub use error::{PostgresError, PostgresErrorKind};
pub use facts::{RoleFacts, ServerFacts};
pub use file_tree::FileTree;
pub use request::ConnectionRequest;
pub use tools::{ClientTools, Tool, bin_directories, find_server, find_tool};
