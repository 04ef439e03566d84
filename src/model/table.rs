//! Names of schemas and tables, and the one place where an identifier is quoted.
//!
//! Names are literal: nothing here folds case or knows patterns. A name with a dot in it is written quoted.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Quotes `name` as an SQL identifier, always (PostgreSQL manual, "Identifiers and Key Words").
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A table with its schema, as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct QualifiedTable {
    /// The schema's literal name.
    pub schema: String,
    /// The table's literal name.
    pub name: String,
}

impl QualifiedTable {
    /// The table `name` of `schema`, both literal.
    pub fn new(schema: impl Into<String>, name: impl Into<String>) -> Self {
        Self { schema: schema.into(), name: name.into() }
    }

    /// `"schema"."name"`, quoted for SQL and for pg_dump's `--table`, which then takes no pattern.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl fmt::Display for QualifiedTable {
    /// `schema.name` for people; components that need it are quoted, so that it parses back as a [`TableName`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", plain_or_quoted(&self.schema), plain_or_quoted(&self.name))
    }
}

fn plain_or_quoted(name: &str) -> String {
    let plain =
        !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '$' || c == '-' || c == ' ');
    if plain { name.to_owned() } else { quote_identifier(name) }
}

/// A table as an operator writes it: `users`, `app.users`, `"odd.name"`; the schema is optional.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName {
    /// The schema's literal name, where one was written.
    pub schema: Option<String>,
    /// The table's literal name.
    pub name: String,
}

/// Why a text is no table name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("use {text:?} as a table name: {reason}")]
pub struct InvalidTableName {
    text: String,
    reason: &'static str,
}

impl TableName {
    /// Whether `table` may be meant; without a schema the first of the search path would be, which only the server knows.
    pub fn may_mean(&self, table: &QualifiedTable) -> bool {
        self.name == table.name && self.schema.as_ref().is_none_or(|schema| *schema == table.schema)
    }
}

impl FromStr for TableName {
    type Err = InvalidTableName;

    fn from_str(text: &str) -> Result<Self, InvalidTableName> {
        let refuse = |reason| InvalidTableName { text: text.to_owned(), reason };
        let (first, rest) = component(text).map_err(refuse)?;
        match rest {
            None => Ok(Self { schema: None, name: first }),
            Some(rest) => match component(rest).map_err(refuse)? {
                (name, None) => Ok(Self { schema: Some(first), name }),
                (_, Some(_)) => Err(refuse("it has more than two parts; quote a name that has a dot")),
            },
        }
    }
}

/// Reads one component; what follows a separating dot is the rest.
fn component(text: &str) -> Result<(String, Option<&str>), &'static str> {
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => quoted_component(quoted)?,
        None => {
            let end = text.find('.').unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
    };
    if name.is_empty() {
        return Err("a name is empty");
    }
    if name.contains('\0') {
        return Err("a name has a NUL byte");
    }
    match rest.strip_prefix('.') {
        Some(rest) => Ok((name, Some(rest))),
        None if rest.is_empty() => Ok((name, None)),
        None => Err("text follows a closing quote"),
    }
}

fn quoted_component(text: &str) -> Result<(String, &str), &'static str> {
    let mut name = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' if characters.peek().is_some_and(|(_, next)| *next == '"') => {
                characters.next();
                name.push('"');
            }
            '"' => return Ok((name, &text[at + 1..])),
            other => name.push(other),
        }
    }
    Err("a quote is not closed")
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", plain_or_quoted(schema))?;
        }
        f.write_str(&plain_or_quoted(&self.name))
    }
}

impl TryFrom<String> for TableName {
    type Error = InvalidTableName;

    fn try_from(text: String) -> Result<Self, InvalidTableName> {
        text.parse()
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (Option<String>, String) {
        let name: TableName = text.parse().unwrap();
        (name.schema, name.name)
    }

    #[test]
    fn names_are_literal_with_an_optional_schema() {
        assert_eq!(parts("users"), (None, "users".into()));
        assert_eq!(parts("Users"), (None, "Users".into()));
        assert_eq!(parts("app.users"), (Some("app".into()), "users".into()));
        assert_eq!(parts(r#""odd.name""#), (None, "odd.name".into()));
        assert_eq!(parts(r#""a""b"."c d""#), (Some("a\"b".into()), "c d".into()));
    }

    #[test]
    fn malformed_names_are_refused() {
        for text in ["", ".", "a.", ".a", "a.b.c", "\"a", "\"a\"b", "\"\"", "a\0b"] {
            assert!(text.parse::<TableName>().is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn f81_a_printed_name_parses_back() {
        for name in ["users", "Üser", "a.b", "a\"b", "--x", "new\nline", "%s", "\"; DROP TABLE x; --", " "] {
            let table = QualifiedTable::new("s.p", name);
            let read: TableName = table.to_string().parse().unwrap();
            assert_eq!((read.schema.as_deref(), read.name.as_str()), (Some("s.p"), name));
        }
    }
}
