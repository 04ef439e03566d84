//! What was written, before it has types: a tree of values, each with where it stands.
//!
//! File and environment meet here. A value from the environment is text whose type the reader of the key decides.
//! Messages of the TOML parser are passed on without its excerpt of the source line, which may hold a secret.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::error::{ConfigError, Origin};

/// Bytes of a line past which columns count bytes: nobody looks there, and counting would take its time.
const LONG_LINE: usize = 4096;

/// One value with where it stands.
#[derive(Clone, Debug)]
pub(in crate::config) struct Node {
    pub(in crate::config) value: Value,
    /// Where the value stands.
    pub(in crate::config) origin: Origin,
    /// Where its key stands.
    pub(in crate::config) key_origin: Origin,
}

/// A value as written.
#[derive(Clone, Debug)]
pub(in crate::config) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// A date or time; no key takes one.
    Date,
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// Text of an environment variable.
    Environment(String),
}

impl Node {
    /// An empty table that nobody wrote.
    pub(in crate::config) fn empty() -> Self {
        Self { value: Value::Table(BTreeMap::new()), origin: Origin::Default, key_origin: Origin::Default }
    }

    /// Text from the environment variable `name`.
    pub(in crate::config) fn environment(name: &str, text: String) -> Self {
        let origin = Origin::Environment(name.to_owned());
        Self { value: Value::Environment(text), key_origin: origin.clone(), origin }
    }

    /// The value below `key`.
    pub(in crate::config) fn get(&self, key: &str) -> Option<&Self> {
        match &self.value {
            Value::Table(entries) => entries.get(key),
            _ => None,
        }
    }

    /// The value at `path`.
    pub(in crate::config) fn find(&self, path: &[&str]) -> Option<&Self> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    /// Puts `node` at `path`, making tables on the way and replacing what is no table.
    pub(in crate::config) fn put(&mut self, path: &[String], node: Self) {
        let Some((key, rest)) = path.split_first() else {
            *self = node;
            return;
        };
        if !matches!(self.value, Value::Table(_)) {
            self.value = Value::Table(BTreeMap::new());
        }
        if let Value::Table(entries) = &mut self.value {
            entries.entry(key.clone()).or_insert_with(Self::empty).put(rest, node);
        }
    }

    /// Takes away what is at `path`; whether there was something.
    pub(in crate::config) fn remove(&mut self, path: &[String]) -> bool {
        let (Value::Table(entries), Some((key, rest))) = (&mut self.value, path.split_first()) else { return false };
        match entries.get_mut(key) {
            Some(entry) if !rest.is_empty() && matches!(entry.value, Value::Table(_)) => entry.remove(rest),
            Some(_) => entries.remove(key).is_some(),
            None => false,
        }
    }

    /// Each value that is no table, by its dotted key.
    pub(in crate::config) fn origins(&self) -> BTreeMap<String, Origin> {
        let mut found = BTreeMap::new();
        self.collect_origins("", &mut found);
        found
    }

    fn collect_origins(&self, key: &str, found: &mut BTreeMap<String, Origin>) {
        if !key.is_empty() && self.origin != Origin::Default {
            found.insert(key.to_owned(), self.origin.clone());
        }
        if let Value::Table(entries) = &self.value {
            let dot = if key.is_empty() { "" } else { "." };
            entries.iter().for_each(|(name, node)| node.collect_origins(&format!("{key}{dot}{name}"), found));
        }
    }
}

/// Reads TOML. Every error that the parser can go on after is told.
pub(in crate::config) fn parse(file: &Path, text: &str) -> Result<Node, Vec<ConfigError>> {
    let places = Places::of(file, text);
    if let Some(at) = text.find('\0') {
        return Err(vec![ConfigError::new(places.at(at..at), "", "a NUL byte is in the text")]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let told = |error: &toml::de::Error| {
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            let span = error.span().unwrap_or_default();
            let key = if message == "duplicate key" { text.get(span.clone()) } else { None };
            ConfigError::new(places.at(span), key.unwrap_or_default(), message)
        };
        return Err(errors.iter().map(told).collect());
    }
    let mut errors = Vec::new();
    let entries = places.table(table.into_inner(), &mut errors);
    let root = Node { value: Value::Table(entries), origin: Origin::whole(file), key_origin: Origin::whole(file) };
    if errors.is_empty() { Ok(root) } else { Err(errors) }
}

/// Turns byte positions into lines and columns.
struct Places<'a> {
    file: Arc<Path>,
    text: &'a str,
    /// Where each line begins, in bytes.
    lines: Vec<usize>,
}

impl<'a> Places<'a> {
    fn of(file: &Path, text: &'a str) -> Self {
        let after_breaks = text.match_indices('\n').map(|(at, _)| at + 1);
        Self { file: file.into(), text, lines: std::iter::once(0).chain(after_breaks).collect() }
    }

    fn at(&self, span: Range<usize>) -> Origin {
        let line = self.lines.partition_point(|begin| *begin <= span.start);
        let begin = line.checked_sub(1).and_then(|at| self.lines.get(at)).copied().unwrap_or_default();
        let before = self.text.get(begin..span.start).unwrap_or_default();
        let column = 1 + if before.len() > LONG_LINE { before.len() } else { before.chars().count() };
        Origin::File { file: Arc::clone(&self.file), line, column }
    }

    fn table(&self, table: DeTable<'_>, errors: &mut Vec<ConfigError>) -> BTreeMap<String, Node> {
        let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| {
            let key_origin = self.at(key.span());
            let name = std::borrow::Cow::into_owned(key.into_inner());
            (name, self.node(value, key_origin, errors))
        };
        table.into_iter().map(entry).collect()
    }

    fn node(&self, value: Spanned<DeValue<'_>>, key_origin: Origin, errors: &mut Vec<ConfigError>) -> Node {
        let origin = self.at(value.span());
        let value = match value.into_inner() {
            DeValue::String(text) => Value::Text(text.into_owned()),
            DeValue::Boolean(value) => Value::Boolean(value),
            DeValue::Datetime(_) => Value::Date,
            DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Integer(number),
                Err(_) => {
                    errors.push(ConfigError::new(origin.clone(), "", "the number is too large"));
                    Value::Integer(0)
                }
            },
            DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Array(items) => {
                let node = |item: Spanned<DeValue<'_>>| {
                    let origin = self.at(item.span());
                    self.node(item, origin, errors)
                };
                Value::List(items.into_iter().map(node).collect())
            }
            DeValue::Table(table) => Value::Table(self.table(table, errors)),
        };
        Node { value, origin, key_origin }
    }
}
