//! The only place that prints: data on standard output, talk on standard error, one JSON object with `--json`.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::cli::arguments::{Color, Global};
use crate::model::failure::Failure;

/// Version of every JSON object written to standard output.
pub const SCHEMA_VERSION: u32 = 1;

/// How this process talks.
#[derive(Clone, Debug)]
pub struct Output {
    /// Write JSON.
    pub json: bool,
    /// Say only results and errors.
    pub quiet: bool,
    /// Standard error is a terminal, and bars may be drawn.
    pub bars: bool,
    color: bool,
}

/// What a message is about, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// All is well.
    Good,
    /// Somebody should look.
    Warning,
    /// Something is broken.
    Bad,
    /// Beside the point.
    Faint,
}

impl Output {
    /// How `global` says to talk; `no_color` is whether `NO_COLOR` is set.
    pub fn new(global: &Global, no_color: bool) -> Self {
        let terminal = io::stderr().is_terminal();
        let color = match global.color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => io::stdout().is_terminal() && !no_color,
        };
        Self { json: global.json, quiet: global.quiet, bars: terminal && !global.quiet && !global.json, color }
    }

    /// Gives a command's result: `value`'s fields in one object with `--json`, `text` otherwise.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) {
        if self.json {
            let fields = serde_json::to_value(value).unwrap_or_else(|error| json!({"unprintable": error.to_string()}));
            print_object(fields);
        } else {
            to_stdout(&text());
        }
    }

    /// Says something on standard error, unless quiet.
    pub fn talk(&self, text: &str) {
        if !self.quiet {
            to_stderr(text);
        }
    }

    /// Says why a command failed.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            json_failure(failure);
            return;
        }
        to_stderr(&format!("{} failed to {}", self.paint(Tone::Bad, "error:"), failure.full_message()));
        if let Some(hint) = &failure.hint {
            to_stderr(&format!("{}  {hint}", self.paint(Tone::Faint, "hint:")));
        }
    }

    /// `text` in the colour of `tone`, where colour is wanted.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Warning => "33",
            Tone::Bad => "1;31",
            Tone::Faint => "2",
        };
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Says in JSON why a command failed.
pub fn json_failure(failure: &Failure) {
    let (message, hint) = (failure.full_message(), &failure.hint);
    print_object(json!({ "error": {"code": failure.kind.exit_code(), "message": message, "hint": hint} }));
}

fn print_object(fields: Value) {
    let mut object = Map::new();
    object.insert("schema_version".to_owned(), json!(SCHEMA_VERSION));
    match fields {
        Value::Object(fields) => object.extend(fields),
        other => {
            object.insert("result".to_owned(), other);
        }
    }
    to_stdout(&Value::Object(object).to_string());
}

/// A reader that has gone away is no error of ours: `dbagent backup list | head -1`.
fn to_stdout(text: &str) {
    if text.is_empty() {
        return;
    }
    let _gone = writeln!(io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}

fn to_stderr(text: &str) {
    let _gone = writeln!(io::stderr().lock(), "{text}");
}
