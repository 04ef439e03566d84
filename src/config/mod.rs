//! What the operator wrote: dbagent.toml, `DBAGENT_*` and `PG*` variables, the plan. Validated once, then plain values.
//!
//! Reads the environment and its own files, in one file each (`environment`, `files`), and opens nothing else: paths
//! and secrets are references that others resolve. Everything wrong is told at once, each with file, line and key.
//! No message, `Debug` or `show` ever holds a secret.

mod audit;
mod base;
mod cost;
mod decode;
mod encryption;
mod environment;
mod error;
mod files;
mod load;
mod notify;
mod place;
mod plan;
mod plan_rules;
mod postgres;
mod problems;
mod rules;
mod secret;
mod settings;
mod show;
mod tree;
mod validate;
mod wal;

pub use audit::{Audit, AuditProfile};
pub use base::{BaseBackup, Compression};
pub use cost::Cost;
pub use encryption::{Encryption, Fingerprint, OpenPgp, Profile, Verification};
pub use environment::Environment;
pub use error::{ConfigError, ConfigErrors, Origin};
pub use load::{LoadRequest, Loaded, load, load_plan};
pub use notify::{Notify, Preset, Smtp, SmtpTls, Webhook};
pub use place::Place;
pub use plan::{BUILT_IN, BaseKind, CatchUp, Job, Period, Plan, Retry, VerifyMode};
pub use postgres::{Postgres, ReplicationLogin, SslMode};
pub use rules::{Checklist, ColumnName, LogScan, PartitionRule, PurgeRule, PurgeScope, Redis, RoleAttribute, RoleRule};
pub use secret::{CommandLine, FilePath, MASK, Secret, SecretText, SecretUrl};
pub use settings::{Agent, Config, Dump, Goals, LockMode, ObjectLock, Repository, Restore, Web};
pub use show::{Row, example, plan_schema, schema, show};
pub use wal::{Ack, Wal};
