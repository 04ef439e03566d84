//! The `[postgres]` section: where the server is and who logs in.
//!
//! `PG*` and `POSTGRES_*` variables have been merged into these keys already (`environment`). The parts of `url` win
//! over the single keys; resolving service, passfile and TLS is the connection's work, not this file's.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::{CommandLine, FilePath, Secret, SecretText, SecretUrl};
use crate::model::span::Span;
use crate::model::verb::Verb;

/// The server and the login.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    /// `postgres://user@host:port/database?sslmode=…`; its parts win over the keys below.
    pub url: Option<SecretUrl>,
    /// Host name, address, or folder of the Unix socket.
    pub host: Option<String>,
    /// Port.
    pub port: Option<u16>,
    /// Login.
    pub user: Option<String>,
    /// Database that jobs use unless they name one.
    pub database: Option<String>,
    /// As libpq has it.
    pub sslmode: Option<SslMode>,
    /// Certificates (PEM) that sign the server's.
    pub sslrootcert: Option<FilePath>,
    /// Certificate (PEM) to log in with.
    pub sslcert: Option<FilePath>,
    /// Its key (PEM).
    pub sslkey: Option<FilePath>,
    /// The login's password, written out.
    pub password: Option<SecretText>,
    /// A file that holds it.
    pub password_file: Option<FilePath>,
    /// A command that prints it.
    pub password_command: Option<CommandLine>,
    /// A secret of AWS Secrets Manager that holds it (JSON: username, password). Not built yet.
    pub password_aws_secret: Option<String>,
    /// libpq's password file.
    pub passfile: Option<FilePath>,
    /// Section of libpq's service file.
    pub service: Option<String>,
    /// libpq's service file.
    pub service_file: Option<FilePath>,
    /// How long to wait for a connection.
    pub connect_timeout: Option<Span>,
    /// The server's data directory; asked from the server when absent.
    pub data_directory: Option<FilePath>,
    /// Folder of pg_dump and its friends; found by itself when absent.
    pub bin_directory: Option<FilePath>,
    /// The role that each verb sets after login.
    pub roles: BTreeMap<Verb, String>,
    /// Another login for base backups.
    pub replication: Option<ReplicationLogin>,
}

/// The login for base backups.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplicationLogin {
    /// Login.
    pub user: String,
    /// Its password, written out.
    pub password: Option<SecretText>,
    /// A file that holds it.
    pub password_file: Option<FilePath>,
    /// A command that prints it.
    pub password_command: Option<CommandLine>,
    /// A secret of AWS Secrets Manager that holds it. Not built yet.
    pub password_aws_secret: Option<String>,
}

/// How far TLS is insisted on (libpq manual, "SSL Mode Descriptions").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// Only when the server insists.
    Allow,
    /// When the server can.
    Prefer,
    /// Always, whoever the server is.
    Require,
    /// Always, with a certificate by a known authority.
    VerifyCa,
    /// Always, with a certificate by a known authority for this host.
    VerifyFull,
}

impl Postgres {
    /// The login's password, where a key says.
    pub fn secret(&self) -> Option<Secret> {
        let command = self.password_command.as_ref();
        one_secret(self.password.as_ref(), self.password_file.as_ref(), command, self.password_aws_secret.as_ref())
    }
}

impl ReplicationLogin {
    /// The login's password, where a key says.
    pub fn secret(&self) -> Option<Secret> {
        let command = self.password_command.as_ref();
        one_secret(self.password.as_ref(), self.password_file.as_ref(), command, self.password_aws_secret.as_ref())
    }
}

/// The first of the forms that is written; validation has seen that there is only one.
pub(in crate::config) fn one_secret(
    value: Option<&SecretText>,
    file: Option<&FilePath>,
    command: Option<&CommandLine>,
    aws_secret: Option<&String>,
) -> Option<Secret> {
    value
        .map(|value| Secret::Value(value.clone()))
        .or_else(|| file.map(|file| Secret::File(file.0.clone())))
        .or_else(|| command.map(|command| Secret::Command(command.0.clone())))
        .or_else(|| aws_secret.map(|name| Secret::AwsSecret(name.clone())))
}
