//! Collects what is wrong with values that each by itself are well-formed, at the place where each stands.

use std::collections::BTreeMap;

use crate::config::error::{ConfigError, Origin, nearest};
use crate::model::key::ObjectKey;
use crate::model::span::Span;

/// Longest name of a cluster, repository or job, in bytes.
const MAX_NAME_BYTES: usize = 63;

/// Errors and warnings so far.
pub(in crate::config) struct Problems<'a> {
    pub(in crate::config) errors: Vec<ConfigError>,
    pub(in crate::config) warnings: Vec<String>,
    origins: &'a BTreeMap<String, Origin>,
    whole: Origin,
}

impl<'a> Problems<'a> {
    /// None yet; `whole` stands for keys that nobody wrote.
    pub(in crate::config) fn new(origins: &'a BTreeMap<String, Origin>, whole: Origin) -> Self {
        Self { errors: Vec::new(), warnings: Vec::new(), origins, whole }
    }

    /// Where `key`, or the nearest key above it, stands.
    pub(in crate::config) fn origin(&self, key: &str) -> Origin {
        let above = std::iter::successors(Some(key), |key| key.rsplit_once('.').map(|(above, _)| above));
        above.filter_map(|key| self.origins.get(key)).next().unwrap_or(&self.whole).clone()
    }

    /// Whether somebody wrote `key`.
    pub(in crate::config) fn is_written(&self, key: &str) -> bool {
        self.origins.contains_key(key)
    }

    /// An error at `key`.
    pub(in crate::config) fn error(&mut self, key: &str, message: impl Into<String>) {
        self.errors.push(ConfigError::new(self.origin(key), key, message));
    }

    /// An error at `key`, with the one of `known` that `word` was meant to be.
    pub(in crate::config) fn unknown<'b>(
        &mut self,
        key: &str,
        message: impl Into<String>,
        word: &str,
        known: impl IntoIterator<Item = &'b str>,
    ) {
        let suggestion = nearest(word, known);
        self.errors.push(ConfigError { suggestion, ..ConfigError::new(self.origin(key), key, message) });
    }

    /// An error at `key` when `wrong`.
    pub(in crate::config) fn error_if(&mut self, wrong: bool, key: &str, message: &str) {
        if wrong {
            self.error(key, message);
        }
    }

    /// A warning at `key`.
    pub(in crate::config) fn warn(&mut self, key: &str, message: &str) {
        self.warnings.push(format!("{}: {key}: {message}", self.origin(key)));
    }

    /// Holds `name`, written at `key`, against the form of names.
    pub(in crate::config) fn check_name(&mut self, key: &str, name: &str) {
        let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let fine = !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.chars().all(allowed);
        self.error_if(!fine, key, "a name is 1 to 63 letters, digits, hyphens and underscores");
    }

    /// Holds a text against the form of one component of an object's key.
    pub(in crate::config) fn check_component(&mut self, key: &str, text: &str) {
        let fine = text.len() <= MAX_NAME_BYTES && !text.contains('/') && text.parse::<ObjectKey>().is_ok();
        let message = "is part of the names in the repository: at most 63 bytes, no slash, no leading dot";
        self.error_if(!fine, key, message);
    }

    /// Refuses a length of zero.
    pub(in crate::config) fn check_length(&mut self, key: &str, span: Option<Span>) {
        self.error_if(span.is_some_and(|span| span.is_zero()), key, "a length of zero makes it useless");
    }

    /// Refuses a share above 100 or of nothing.
    pub(in crate::config) fn check_percent(&mut self, key: &str, percent: Option<u8>) {
        self.error_if(percent.is_some_and(|percent| !(1..=100).contains(&percent)), key, "expected 1 to 100 percent");
    }
}
