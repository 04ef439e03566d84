//! What is wrong in a configuration or a plan: file, line, column, key, message and what was probably meant.
//!
//! Messages never carry a value of a secret key, nor the source line, which may hold one.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// Where a value comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// Nobody wrote it.
    #[default]
    Default,
    /// A file, with line and column from 1; both are 0 where the whole file is meant.
    File {
        /// The file's path, or a built-in plan's name.
        file: Arc<Path>,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
    },
    /// An environment variable.
    Environment(String),
}

impl Origin {
    /// The whole of `file`.
    pub fn whole(file: &Path) -> Self {
        Self::File { file: file.into(), line: 0, column: 0 }
    }

    /// The line, from 1, where there is one.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { line, .. } if *line > 0 => Some(*line),
            _ => None,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { file, line: 0, .. } => write!(f, "{}", file.display()),
            Self::File { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Environment(name) => write!(f, "${name}"),
        }
    }
}

/// One thing wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// The dotted key, empty where no key is to blame.
    pub key: String,
    /// What is wrong: a lower-case fragment.
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
}

impl ConfigError {
    /// Something wrong with `key` at `origin`.
    pub fn new(origin: Origin, key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { origin, key: key.into(), message: message.into(), suggestion: None }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.origin != Origin::Default {
            write!(f, "{}: ", self.origin)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)?;
        self.suggestion.iter().try_for_each(|meant| write!(f, ", did you mean {meant:?}?"))
    }
}

/// Everything wrong, in the order found; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    /// One line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ConfigError::to_string).collect();
        write!(f, "read the configuration: {}", lines.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

/// The one of `known` that `word` was probably meant to be.
pub(in crate::config) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let word = word.to_ascii_lowercase().replace('-', "_");
    let closeness = |other: &str| {
        let other = other.to_ascii_lowercase().replace('-', "_");
        let one_slip = strsim::osa_distance(&word, &other) == 1;
        if one_slip { 0.95 } else { strsim::jaro_winkler(&word, &other) }
    };
    let scored = known.into_iter().map(|other| (closeness(other), other)).filter(|(score, _)| *score > 0.8);
    scored.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, other)| other.to_owned())
}
