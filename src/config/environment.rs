//! The environment: `DBAGENT_SECTION__KEY` over every key, and the `PG*` and `POSTGRES_*` variables under them.
//!
//! A variable of ours beats the file; the aliases only fill what nobody has written. An empty variable counts as not
//! set, as compose files leave them. Names that begin with `DBAGENT_` and are no key of the top level have two
//! underscores somewhere: others, such as Kubernetes' service links, are not ours.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::error::{ConfigError, Origin, nearest};
use crate::config::files;
use crate::config::tree::{Node, Value};

/// Keys of the top level that a variable can set.
const TOP_LEVEL: [&str; 4] = ["cluster", "plan", "state_dir", "encryption"];
const PREFIX: &str = "DBAGENT_";
/// The variable that names the configuration's file.
pub(in crate::config) const CONFIG_VARIABLE: &str = "DBAGENT_CONFIG";
/// Secrets that come in several forms, of which a later layer replaces all.
const SECRETS: [&str; 4] = ["password", "signing_key_passphrase", "decryption_key_passphrase", "secret"];
const FORMS: [&str; 4] = ["", "_file", "_command", "_aws_secret"];

/// Variables of a libpq client, with the key each fills.
const LIBPQ: [(&str, &str); 12] = [
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "service_file"),
    ("PGPASSFILE", "passfile"),
    ("PGPASSWORD", "password"),
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGDATABASE", "database"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
];
/// Variables of the official image; `_FILE` names a file that holds the value.
const IMAGE: [(&str, &str); 8] = [
    ("POSTGRES_HOST", "host"),
    ("POSTGRES_PORT", "port"),
    ("POSTGRES_USER", "user"),
    ("POSTGRES_USER_FILE", "user"),
    ("POSTGRES_DB", "database"),
    ("POSTGRES_DB_FILE", "database"),
    ("POSTGRES_PASSWORD", "password"),
    ("POSTGRES_PASSWORD_FILE", "password_file"),
];
/// Keys that a service of libpq's service file gives, before `PG*` does.
const OF_SERVICE: [&str; 8] = ["host", "port", "user", "database", "sslmode", "sslrootcert", "sslcert", "sslkey"];

/// Variables by name. Values that are not UTF-8 hold U+FFFD and are refused where they are used.
#[derive(Clone, Default)]
pub struct Environment(pub BTreeMap<String, String>);

impl std::fmt::Debug for Environment {
    /// Names only: values may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Environment {
    /// This process's.
    pub fn of_process() -> Self {
        let text = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
        Self(std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect())
    }

    /// The value of `name`, unless it is empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Variables of ours that set a key, with the key's path.
    fn keys(&self) -> impl Iterator<Item = (&str, Vec<String>)> {
        let ours = self.0.keys().filter(|name| *name != CONFIG_VARIABLE && self.get(name).is_some());
        ours.filter_map(|name| {
            let path: Vec<_> = name.strip_prefix(PREFIX)?.split("__").map(str::to_lowercase).collect();
            (path.len() > 1 || TOP_LEVEL.contains(&path[0].as_str())).then_some((name.as_str(), path))
        })
    }

    /// Whether any variable of ours sets a key.
    pub(in crate::config) fn configures(&self) -> bool {
        self.keys().next().is_some()
    }

    /// Variables that look like a slip in the name of ours.
    pub(in crate::config) fn warnings(&self) -> Vec<String> {
        let single = self.0.keys().filter_map(|name| Some((name, name.strip_prefix(PREFIX)?.to_lowercase())));
        let slips = single
            .filter(|(name, key)| !key.contains("__") && *name != CONFIG_VARIABLE && !TOP_LEVEL.contains(&&**key));
        let told = slips.filter_map(|(name, key)| {
            let meant = nearest(&key, TOP_LEVEL)?;
            Some(format!("{name} sets nothing, did you mean {PREFIX}{}?", meant.to_uppercase()))
        });
        told.collect()
    }
}

/// Lays our variables over `root`.
pub(in crate::config) fn overlay(root: &mut Node, environment: &Environment) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    for (name, path) in environment.keys() {
        let path = as_written(root, &path);
        match value_of(environment, name) {
            Ok(_) if path.iter().any(String::is_empty) => {
                let origin = Origin::Environment(name.to_owned());
                errors.push(ConfigError::new(origin, path.join("."), "a part of the name is empty"));
            }
            Ok(node) => {
                remove_other_forms(root, &path);
                root.put(&path, node);
            }
            Err(error) => errors.push(error),
        }
    }
    errors
}

/// Fills keys of `[postgres]` that nobody has written.
pub(in crate::config) fn fill_from_aliases(root: &mut Node, environment: &Environment) -> Vec<ConfigError> {
    let mut errors = Vec::new();
    let set = |name: &&(&str, &str)| environment.get(name.0).is_some();
    for (name, key) in LIBPQ.iter().chain(&IMAGE).filter(set) {
        let by_service = OF_SERVICE.contains(key) && is_written(root, "service");
        if by_service || is_written(root, key) {
            continue;
        }
        match alias(environment, name, key) {
            Ok(node) => root.put(&["postgres".to_owned(), (*key).to_owned()], node),
            Err(error) => errors.push(error),
        }
    }
    if let Some(home) = environment.get("HOME") {
        for (key, file) in [("passfile", ".pgpass"), ("service_file", ".pg_service.conf")] {
            let path = Path::new(home).join(file).to_string_lossy().into_owned();
            if !is_written(root, key) {
                root.put(&["postgres".to_owned(), key.to_owned()], Node::environment("HOME", path));
            }
        }
    }
    errors
}

fn value_of(environment: &Environment, name: &str) -> Result<Node, ConfigError> {
    let text = environment.get(name).unwrap_or_default();
    if text.contains('\u{fffd}') || text.contains('\0') {
        return Err(ConfigError::new(Origin::Environment(name.to_owned()), "", "is not UTF-8 text"));
    }
    Ok(Node::environment(name, text.to_owned()))
}

/// The value of an alias; of one that names a file, what the file holds, unless the key takes a file.
fn alias(environment: &Environment, name: &str, key: &str) -> Result<Node, ConfigError> {
    let node = value_of(environment, name)?;
    let names_file = name.starts_with("POSTGRES_") && name.ends_with("_FILE") && !key.ends_with("_file");
    let Some(path) = environment.get(name).filter(|_| names_file) else { return Ok(node) };
    let missing = || ConfigError::new(Origin::Environment(name.to_owned()), "", "names a file that is not there");
    let text = files::read(Path::new(path))?.ok_or_else(missing)?;
    Ok(Node::environment(name, text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// Whether `key` of `[postgres]` is there, in any form.
fn is_written(root: &Node, key: &str) -> bool {
    let key = if key == "password_file" { "password" } else { key };
    let forms = FORMS.iter().filter(|form| form.is_empty() || SECRETS.contains(&key));
    forms.into_iter().any(|form| root.find(&["postgres", &format!("{key}{form}")]).is_some())
}

/// `path` with the spelling of keys that are there: a hyphen cannot stand in a variable's name.
fn as_written(root: &Node, path: &[String]) -> Vec<String> {
    let mut node = Some(root);
    let spell = |key: &String| {
        let entries = match node.map(|node| &node.value) {
            Some(Value::Table(entries)) => Some(entries),
            _ => None,
        };
        let same = |other: &&String| other.to_lowercase().replace(['-', '.'], "_") == *key;
        let written = entries.and_then(|entries| entries.keys().find(same)).unwrap_or(key).clone();
        node = node.and_then(|node| node.get(&written));
        written
    };
    path.iter().map(spell).collect()
}

/// Takes away the other forms of the secret at `path`.
fn remove_other_forms(root: &mut Node, path: &[String]) {
    let Some((key, table)) = path.split_last() else { return };
    let is_form = |secret: &&&str| key.strip_prefix(**secret).is_some_and(|form| FORMS.contains(&form));
    let Some(secret) = SECRETS.iter().find(is_form) else { return };
    for form in FORMS {
        let other: Vec<String> = table.iter().cloned().chain([format!("{secret}{form}")]).collect();
        root.remove(&other);
    }
}
