//! Secrets, paths and addresses as configuration values.
//!
//! A secret is a reference (value, file, command, AWS secret) that is resolved for each run, elsewhere. Nothing here
//! shows a secret's text: `Debug` and `Serialize` write eight asterisks.

use std::fmt;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What is shown instead of a secret.
pub const MASK: &str = "********";

/// A secret's text, wiped from memory when dropped.
#[derive(Clone)]
pub struct SecretText(SecretString);

impl SecretText {
    /// Takes a secret's text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(SecretString::from(text.into()))
    }

    /// The text itself, for the one who logs in with it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for SecretText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Secret".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "writeOnly": true })
    }
}

/// Where a secret is to be had; resolved anew for each run.
#[derive(Clone, Debug)]
pub enum Secret {
    /// Written out.
    Value(SecretText),
    /// The content of a file, without the line end.
    File(PathBuf),
    /// What a command (program and arguments) writes to its standard output, without the line end.
    Command(Vec<String>),
    /// A secret of AWS Secrets Manager, by name or ARN.
    AwsSecret(String),
}

/// A command: a list of program and arguments, or one text for the shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct CommandLine(pub Vec<String>);

struct CommandVisitor;

impl<'de> de::Visitor<'de> for CommandVisitor {
    type Value = CommandLine;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a command as a text or as a list of program and arguments")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<CommandLine, E> {
        if text.trim().is_empty() {
            return Err(E::custom("run an empty command"));
        }
        Ok(CommandLine(["/bin/sh", "-c", text].map(str::to_owned).to_vec()))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<CommandLine, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element::<String>()? {
            words.push(word);
        }
        let has_program = words.first().is_some_and(|program| !program.is_empty());
        if has_program { Ok(CommandLine(words)) } else { Err(de::Error::custom("run an empty command")) }
    }
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CommandVisitor)
    }
}

/// A path; a relative one is resolved against the folder of the file it stands in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilePath(pub PathBuf);

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

/// A URL that may hold a password, which is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(url::Url);

impl SecretUrl {
    /// The URL with its password, for the one who connects.
    pub fn expose(&self) -> &url::Url {
        &self.0
    }

    /// Whether it holds a password, in its authority or among its parameters.
    pub fn holds_password(&self) -> bool {
        self.0.password().is_some() || self.0.query_pairs().any(|(name, _)| is_password(&name))
    }
}

fn is_password(name: &str) -> bool {
    matches!(name, "password" | "sslpassword")
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() && shown.set_password(Some(MASK)).is_err() {
            return f.write_str(MASK);
        }
        if self.0.query().is_some() {
            let masked = |name: &str, value: &str| if is_password(name) { MASK.to_owned() } else { value.to_owned() };
            let pairs = self.0.query_pairs().map(|(name, value)| (name.to_string(), masked(&name, &value)));
            let pairs: Vec<_> = pairs.collect();
            shown.query_pairs_mut().clear().extend_pairs(pairs);
        }
        shown.fmt(f)
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretUrl {
    /// The reason of a refusal never holds the text.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(|reason| de::Error::custom(format!("expected a URL: {reason}")))
    }
}

impl JsonSchema for SecretUrl {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Url".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "uri" })
    }
}
