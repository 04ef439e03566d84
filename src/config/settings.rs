//! The keys of dbagent.toml as types: what may be written, and what holds when nothing is.
//!
//! Nothing is opened or resolved here. Where a key stands, and its neighbours that must agree with it, is
//! `validate`'s concern. Every key is in the example and in the schema; a test holds the three together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::audit::Audit;
use crate::config::base::BaseBackup;
use crate::config::cost::Cost;
use crate::config::encryption::{Encryption, Verification};
use crate::config::notify::Notify;
use crate::config::place::Place;
use crate::config::postgres::Postgres;
use crate::config::secret::{FilePath, SecretUrl};
use crate::config::wal::Wal;
use crate::model::lsn::SystemId;
use crate::model::schedule::Zone;
use crate::model::size::ByteSize;
use crate::model::span::Span;

/// The whole configuration.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of the PostgreSQL cluster in the repository, the metrics and the report.
    pub cluster: String,
    /// A plan's file, or the name of a built-in plan: "bc-003", "dify", "managed". Without one there are no jobs.
    pub plan: Option<String>,
    /// System identifiers that this cluster had before pg_upgrade; their repositories may be gone on with.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub former_systems: Vec<SystemId>,
    /// Folder for the agent's own state: run history, caches, locks.
    #[serde(default = "default_state_dir")]
    pub state_dir: FilePath,
    /// The server.
    #[serde(default)]
    pub postgres: Postgres,
    /// Where artifacts are kept, by name.
    #[serde(default)]
    pub repository: BTreeMap<String, Repository>,
    /// Keys and recipients, or "none". Without it nothing is stored.
    pub encryption: Option<Encryption>,
    /// Whose signatures are trusted.
    #[serde(default)]
    pub verification: Verification,
    /// How dumps are made.
    #[serde(default)]
    pub dump: Dump,
    /// How WAL is archived and fetched.
    #[serde(default)]
    pub wal: Wal,
    /// How base backups are made.
    #[serde(default)]
    pub base_backup: BaseBackup,
    /// How restores are done.
    #[serde(default)]
    pub restore: Restore,
    /// The audit log's older rows.
    #[serde(default)]
    pub audit: Audit,
    /// The status page.
    #[serde(default)]
    pub web: Web,
    /// Who is told of failures.
    #[serde(default)]
    pub notify: Notify,
    /// What was promised to others.
    #[serde(default)]
    pub goals: Goals,
    /// What storage costs.
    pub cost: Option<Cost>,
    /// The agent's own habits.
    #[serde(default)]
    pub agent: Agent,
}

fn default_state_dir() -> FilePath {
    FilePath("/var/lib/dbagent".into())
}

/// A place where artifacts are kept.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `file:///absolute/path` or `s3://bucket/prefix`.
    pub url: Place,
    /// S3 region; the SDK's chain finds it when absent.
    pub region: Option<String>,
    /// Address of an S3-compatible store.
    pub endpoint: Option<SecretUrl>,
    /// Whether the bucket goes into the path instead of the host name.
    #[serde(default)]
    pub path_style: bool,
    /// Certificates (PEM) that sign the store's, instead of the system's.
    pub ca_bundle: Option<FilePath>,
    /// Server-side encryption: "AES256", "aws:kms", "aws:kms:dsse".
    pub sse: Option<String>,
    /// The KMS key for it.
    pub kms_key_id: Option<String>,
    /// Storage class, unless the job says otherwise.
    pub storage_class: Option<String>,
    /// Smallest part of an upload in parts.
    pub part_size: Option<ByteSize>,
    /// Lock on what is written, where the bucket has it.
    pub object_lock: Option<ObjectLock>,
    /// Whether the store itself refuses to overwrite (`If-None-Match`); AWS, MinIO and Ceph do, rclone and garage do not.
    #[serde(default = "yes")]
    pub conditional_put: bool,
    /// Whether archived WAL goes here too.
    #[serde(default = "yes")]
    pub wal: bool,
    /// Tags of what is written.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

fn yes() -> bool {
    true
}

/// Lock against deletion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLock {
    /// Whether a privileged login may lift it.
    pub mode: LockMode,
    /// Days it lasts.
    pub days: u32,
}

/// Whether a lock can be lifted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// By a privileged login.
    Governance,
    /// By nobody.
    Compliance,
}

/// How dumps are made.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Dump {
    /// gzip level, 1 (fastest) to 12 (smallest).
    pub compression_level: u8,
    /// Threads that compress; as many as the machine has, at most 4, when absent.
    pub threads: Option<u16>,
    /// How long to wait for a table's lock.
    pub lock_timeout: Span,
}

impl Default for Dump {
    fn default() -> Self {
        Self { compression_level: 2, threads: None, lock_timeout: Span::seconds(30) }
    }
}

/// How restores are done.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Restore {
    /// Folder for private scratch files and copies of the cluster; the temporary directory when absent.
    pub scratch_directory: Option<FilePath>,
    /// Connections that load and build indexes side by side.
    pub jobs: Option<u16>,
    /// Zone of target times written without an offset; without it they are refused.
    pub timezone: Option<Zone>,
}

/// The status page.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Web {
    /// Address and port.
    pub listen: SocketAddr,
}

impl Default for Web {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9851)) }
    }
}

/// What was promised to others.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Goals {
    /// Most that may be lost.
    pub rpo: Option<Span>,
    /// Longest a full recovery may take.
    pub rto: Option<Span>,
}

/// The agent's own habits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Agent {
    /// How long running work may take to end after SIGTERM.
    pub shutdown_grace: Span,
    /// How long an artifact or a leftover is left alone by `expire`, whatever the rules say.
    pub expire_grace: Span,
    /// Jobs that run side by side.
    pub concurrency: u16,
    /// How long the run history is kept.
    pub history: Span,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            shutdown_grace: Span::seconds(25),
            expire_grace: Span::days(1),
            concurrency: 2,
            history: Span::months(13),
        }
    }
}
