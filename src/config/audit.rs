//! How rows of the audit log are hashed that are older than the chain's trigger.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::problems::Problems;
use crate::model::audit::profile::{Definition, Fault, Profile, Profiles, Unfit};
use crate::model::digest::Digest;

/// The audit log.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Formulas of an earlier application, by name; each is pinned by `audit backfill`.
    pub profile: BTreeMap<String, AuditProfile>,
}

/// SHA-256 over columns as text, for the rows of a range of `recorded_at`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditProfile {
    /// The first instant of the range, as "2020-01-01T00:00:00Z".
    pub from: String,
    /// The instant after its last.
    pub until: String,
    /// The columns in the order in which they are hashed, each `name` or `name:encoding`.
    pub columns: Vec<String>,
    /// What comes between two columns.
    pub separator: String,
    /// What comes before the first column.
    #[serde(default)]
    pub prefix: String,
    /// What comes after the last.
    #[serde(default)]
    pub suffix: String,
    /// What stands for NULL.
    #[serde(default)]
    pub null: String,
    /// `previous_hash` of the first row, where that is not NULL: 64 hexadecimal digits.
    pub genesis: Option<String>,
}

impl Audit {
    /// The formulas. What is wrong with them is told by the loading of the configuration.
    pub fn profiles(&self) -> Result<Profiles, Unfit> {
        let profile = |(name, written): (&String, &AuditProfile)| {
            let first = |faults: Vec<Fault>| faults.into_iter().next();
            written.profile(name).map_err(|faults| {
                let nothing = || Fault { key: "columns", message: "cannot be read".to_owned(), unknown: None };
                Unfit { name: name.clone(), fault: first(faults).unwrap_or_else(nothing) }
            })
        };
        Profiles::of(self.profile.iter().map(profile).collect::<Result<_, _>>()?)
    }
}

impl AuditProfile {
    fn profile(&self, name: &str) -> Result<Profile, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut fault = |key, message: &str| faults.push(Fault { key, message: message.to_owned(), unknown: None });
        let mut instant = |key, text: &str| match text.parse::<DateTime<Utc>>() {
            Ok(instant) => instant,
            Err(_) => {
                fault(key, "expected an instant with its offset, as \"2020-01-01T00:00:00Z\"");
                DateTime::UNIX_EPOCH
            }
        };
        let (from, until) = (instant("from", &self.from), instant("until", &self.until));
        let genesis = self.genesis.as_ref().map(|text| text.parse::<Digest>());
        let genesis = genesis.transpose().unwrap_or_else(|_| {
            fault("genesis", "expected 64 hexadecimal digits");
            None
        });
        let definition = Definition {
            name: name.to_owned(),
            from,
            until,
            prefix: self.prefix.clone(),
            separator: self.separator.clone(),
            suffix: self.suffix.clone(),
            null: self.null.clone(),
            genesis,
            columns: self.columns.clone(),
        };
        match (Profile::of(definition), faults.is_empty()) {
            (Ok(profile), true) => Ok(profile),
            (Ok(_), false) => Err(faults),
            (Err(more), _) => {
                // What could not be read says nothing of the range.
                let known = faults.iter().any(|fault| matches!(fault.key, "from" | "until"));
                faults.extend(more.into_iter().filter(|fault| !known || !matches!(fault.key, "from" | "until")));
                Err(faults)
            }
        }
    }
}

pub(in crate::config) fn validate(audit: &Audit, problems: &mut Problems<'_>) {
    let mut profiles = Vec::new();
    for (name, written) in &audit.profile {
        match written.profile(name) {
            Ok(profile) => profiles.push(profile),
            Err(faults) => faults.iter().for_each(|fault| tell(name, fault, problems)),
        }
    }
    for profile in &profiles {
        let at = |key: &str| format!("audit.profile.{}.{key}", profile.name());
        let uncovered = profile.uncovered().join(", ");
        if !uncovered.is_empty() {
            let message = format!("the hash says nothing of {uncovered}: who alters them in this range is not found");
            problems.warn(&at("columns"), &message);
        }
        if profile.definition().separator.is_empty() {
            problems.warn(&at("separator"), "it is empty: what moves from one column to the next is not found");
        }
    }
    if let Err(unfit) = Profiles::of(profiles) {
        tell(&unfit.name, &unfit.fault, problems);
    }
}

fn tell(name: &str, fault: &Fault, problems: &mut Problems<'_>) {
    let key = match fault.key {
        "name" => format!("audit.profile.{name}"),
        key => format!("audit.profile.{name}.{key}"),
    };
    match &fault.unknown {
        Some((word, known)) => problems.unknown(&key, fault.message.clone(), word, known.iter().copied()),
        None => problems.error(&key, fault.message.clone()),
    }
}
