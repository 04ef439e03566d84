//! The tables of a plan besides its jobs: partition rules, purge rules, the checklist's own points.
//!
//! Read and checked here; the verbs that follow them come later. A purge rule has a compiled-in minimum age.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::postgres::{SslMode, one_secret};
use crate::config::secret::{CommandLine, FilePath, Secret, SecretText};
use crate::model::span::Span;
use crate::model::table::{InvalidTableName, TableName};

/// How one table is partitioned by month.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PartitionRule {
    /// The column of the range.
    pub key: String,
    /// How long a partition stays after its upper bound; for ever when absent.
    pub retention: Option<Span>,
    /// Months made ahead.
    #[serde(default = "three")]
    pub premake: u32,
    /// Whether a partition goes only with a signed seal.
    #[serde(default)]
    pub seal: bool,
    /// Whether a partition goes only with a verified archive artifact.
    #[serde(default = "yes")]
    pub archive: bool,
    /// Whether a detached partition stays as a table.
    #[serde(default)]
    pub keep_detached: bool,
    /// How long to wait for the parent's lock.
    pub lock_timeout: Option<Span>,
}

fn three() -> u32 {
    3
}

fn yes() -> bool {
    true
}

/// What may be deleted by key.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PurgeRule {
    /// The database; that of the connection when absent.
    pub database: Option<String>,
    /// The table.
    #[schemars(with = "String")]
    pub table: TableName,
    /// The column of the key.
    pub key: String,
    /// What goes.
    pub delete: PurgeScope,
    /// The column that says which row is the newest.
    pub order_by: Option<String>,
    /// Tables whose rows go first, in this order.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub cascade: Vec<TableName>,
    /// Age below which nothing goes.
    pub older_than: Option<Span>,
    /// Largest share of the table that one run may delete, in percent.
    pub max_percent: Option<u8>,
    /// Rows per statement.
    pub batch: Option<u32>,
    /// Tries in all for one key.
    pub attempts: Option<u32>,
    /// Longest a statement may take.
    pub statement_timeout: Option<Span>,
    /// How long to wait for a lock.
    pub lock_timeout: Option<Span>,
    /// How long a transaction may idle.
    pub idle_in_transaction_session_timeout: Option<Span>,
    /// Whether ids are hashed in logs.
    #[serde(default)]
    pub personal: bool,
    /// The role set after login.
    pub role: Option<String>,
    /// A login of its own.
    pub user: Option<String>,
    /// Its password, written out.
    pub password: Option<SecretText>,
    /// A file that holds it.
    pub password_file: Option<FilePath>,
    /// A command that prints it.
    pub password_command: Option<CommandLine>,
    /// A secret of AWS Secrets Manager with user name and password. Not built yet.
    pub password_aws_secret: Option<String>,
    /// How far TLS is insisted on.
    pub sslmode: Option<SslMode>,
    /// Share of failed requests, in percent, that raises an alert.
    pub alert_percent: Option<u8>,
}

impl PurgeRule {
    /// The login's password, where a key says.
    pub fn secret(&self) -> Option<Secret> {
        let command = self.password_command.as_ref();
        one_secret(self.password.as_ref(), self.password_file.as_ref(), command, self.password_aws_secret.as_ref())
    }
}

/// What goes of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PurgeScope {
    /// Every row.
    All,
    /// The newest row.
    Latest,
}

/// What the daily checklist looks at besides the agent's own.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Checklist {
    /// Disk used, in percent, from which on it fails.
    pub disk_percent: Option<u8>,
    /// Memory used, in percent, from which on it fails.
    pub memory_percent: Option<u8>,
    /// Processor time used, in percent, from which on it fails.
    pub cpu_percent: Option<u8>,
    /// Addresses that answer 200.
    pub http: Vec<String>,
    /// Addresses `host:port` that take a connection.
    pub tcp: Vec<String>,
    /// Redis servers that answer PING.
    pub redis: Vec<Redis>,
    /// Log files without new errors.
    pub log: Vec<LogScan>,
    /// Whether the connection must be by TLS.
    pub tls: bool,
    /// Tables with row-level security.
    #[schemars(with = "Vec<String>")]
    pub row_level_security: Vec<TableName>,
    /// Tables whose audit trigger is there and enabled.
    #[schemars(with = "Vec<String>")]
    pub audit_triggers: Vec<TableName>,
    /// Columns that must be there: `table.column`, or the column alone for one of `audit_logs`.
    #[schemars(with = "Vec<String>")]
    pub audit_columns: Vec<ColumnName>,
    /// Roles of dbagent's own that may be no wider than `sql/roles/` makes them.
    pub roles: Vec<String>,
    /// Other roles, and all that each may have.
    pub role: BTreeMap<String, RoleRule>,
    /// How long the server's logs must be kept at least.
    pub log_retention: Option<Span>,
    /// How long dumps, and the backups of a provider, must be kept at least.
    pub backup_retention: Option<Span>,
    /// The cluster at Amazon RDS, where the server's host name does not tell it.
    pub rds_cluster: Option<String>,
    /// The instance at Amazon RDS, where the server's host name does not tell it.
    pub rds_instance: Option<String>,
    /// Whether the repositories' buckets are encrypted, versioned and not public.
    pub buckets: bool,
}

/// A column as an operator writes it: `table.column` or `schema.table.column`; alone it is one of `audit_logs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ColumnName {
    /// The table.
    pub table: TableName,
    /// The column's literal name.
    pub column: String,
}

impl TryFrom<String> for ColumnName {
    type Error = InvalidTableName;

    fn try_from(text: String) -> Result<Self, InvalidTableName> {
        let (table, column) = text.rsplit_once('.').unwrap_or(("audit_logs", &text));
        Ok(Self { table: table.parse()?, column: column.to_owned() })
    }
}

impl From<ColumnName> for String {
    fn from(name: ColumnName) -> Self {
        format!("{}.{}", name.table, name.column)
    }
}

/// All that a role may have. What is left out it may not have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RoleRule {
    /// Attributes: LOGIN, SUPERUSER, CREATEDB, CREATEROLE, REPLICATION, BYPASSRLS.
    pub attributes: Vec<RoleAttribute>,
    /// Roles that it is a member of, directly or by another.
    pub member_of: Vec<String>,
    /// Privileges by object, in PostgreSQL's words: `"public.messages" = ["SELECT", "UPDATE (body)"]`.
    pub grants: BTreeMap<String, Vec<String>>,
}

/// What a role may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum RoleAttribute {
    /// It may log in.
    Login,
    /// Nothing is forbidden to it.
    SuperUser,
    /// It may make databases.
    CreateDb,
    /// It may make roles.
    CreateRole,
    /// It may stream the log and copy the data directory.
    Replication,
    /// Row-level security does not hold it.
    BypassRls,
}

impl RoleAttribute {
    /// As PostgreSQL writes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Login => "LOGIN",
            Self::SuperUser => "SUPERUSER",
            Self::CreateDb => "CREATEDB",
            Self::CreateRole => "CREATEROLE",
            Self::Replication => "REPLICATION",
            Self::BypassRls => "BYPASSRLS",
        }
    }
}

/// A Redis server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// `host:port`.
    pub address: String,
    /// A file that holds the password.
    pub password_file: Option<FilePath>,
    /// A command that prints the password.
    pub password_command: Option<CommandLine>,
}

impl Redis {
    /// The server's password, where a key says.
    pub fn secret(&self) -> Option<Secret> {
        one_secret(None, self.password_file.as_ref(), self.password_command.as_ref(), None)
    }
}

/// A log file to look through.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogScan {
    /// The file.
    pub file: PathBuf,
    /// Lines from its end.
    #[serde(default = "fifty")]
    pub lines: u32,
    /// Words that make a line an error.
    #[serde(default = "error_words")]
    pub words: Vec<String>,
}

fn fifty() -> u32 {
    50
}

fn error_words() -> Vec<String> {
    vec!["ERROR".to_owned()]
}
