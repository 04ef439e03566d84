//! What `config show`, `config example` and `config schema` print, as values; secrets are masked by their types.

use serde_json::Value;

use crate::config::error::{ConfigError, Origin};
use crate::config::load::Loaded;
use crate::config::plan::Plan;
use crate::config::settings::Config;

/// One value of the merged configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its dotted key.
    pub key: String,
    /// The value as text, masked where it is a secret.
    pub value: String,
    /// Where it comes from.
    pub origin: Origin,
}

/// Every value that is set, by key, defaults included.
pub fn show(loaded: &Loaded) -> Result<Vec<Row>, ConfigError> {
    let value = serde_json::to_value(&loaded.config)
        .map_err(|error| ConfigError::new(Origin::Default, "", format!("cannot be shown: {error}")))?;
    let mut rows = Vec::new();
    flatten("", &value, loaded, &mut rows);
    Ok(rows)
}

fn flatten(key: &str, value: &Value, loaded: &Loaded, rows: &mut Vec<Row>) {
    match value {
        Value::Null => {}
        Value::Object(entries) => {
            let dot = if key.is_empty() { "" } else { "." };
            entries.iter().for_each(|(name, entry)| flatten(&format!("{key}{dot}{name}"), entry, loaded, rows));
        }
        Value::String(text) => rows.push(Row { key: key.to_owned(), value: text.clone(), origin: origin(key, loaded) }),
        other => rows.push(Row { key: key.to_owned(), value: other.to_string(), origin: origin(key, loaded) }),
    }
}

fn origin(key: &str, loaded: &Loaded) -> Origin {
    loaded.origins.get(key).cloned().unwrap_or_default()
}

/// A configuration with every key and what it means; it loads as it stands.
pub fn example() -> &'static str {
    include_str!("example.toml")
}

/// The JSON schema of dbagent.toml.
pub fn schema() -> Value {
    schemars::schema_for!(Config).to_value()
}

/// The JSON schema of a plan.
pub fn plan_schema() -> Value {
    schemars::schema_for!(Plan).to_value()
}
