//! The `[notify]` section: mail, webhooks, pings and a command. Read and checked; not delivered by this version.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::secret::{CommandLine, FilePath, SecretText};
use crate::model::outcome::Severity;

/// Who is told of failures, recoveries and staleness.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Notify {
    /// Mail.
    pub smtp: Option<Smtp>,
    /// Webhooks by name.
    pub webhook: BTreeMap<String, Webhook>,
    /// Addresses called after each good run, by job; often secrets in themselves.
    pub ping: BTreeMap<String, SecretText>,
    /// A command that gets the notice on its standard input.
    pub exec: Option<CommandLine>,
}

/// Mail by a relay.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Smtp {
    /// The relay.
    pub host: String,
    /// Its port.
    #[serde(default = "default_smtp_port")]
    pub port: u16,
    /// Protection of the connection.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Sender.
    pub from: String,
    /// Receivers.
    pub to: Vec<String>,
    /// Login at the relay.
    pub user: Option<String>,
    /// Its password, written out.
    pub password: Option<SecretText>,
    /// A file that holds it.
    pub password_file: Option<FilePath>,
    /// A command that prints it.
    pub password_command: Option<CommandLine>,
    /// From which severity on.
    #[schemars(with = "Option<String>")]
    pub severity: Option<Severity>,
}

fn default_smtp_port() -> u16 {
    25
}

/// Protection of a connection to a relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SmtpTls {
    /// None: a plain relay.
    #[default]
    None,
    /// Upgraded after the greeting.
    Starttls,
    /// From the first byte.
    Tls,
}

/// A webhook.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Where to post; often a secret in itself.
    pub url: SecretText,
    /// Form of the message.
    #[serde(default)]
    pub preset: Preset,
    /// The secret of the HMAC over the message, written out.
    pub secret: Option<SecretText>,
    /// A file that holds it.
    pub secret_file: Option<FilePath>,
    /// From which severity on.
    #[schemars(with = "Option<String>")]
    pub severity: Option<Severity>,
}

/// Form of a webhook's message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// Our own.
    #[default]
    Plain,
    /// Slack's.
    Slack,
    /// Teams'.
    Teams,
}
