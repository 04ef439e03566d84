//! From the tree to typed values: a serde deserializer that knows where each value stands.
//!
//! serde stops at the first error; [`decode`] takes the offending value away and tries again, so that all are told.
//! Text from the environment becomes what the key asks for. The surprising thing: a newtype named `FilePath` is
//! resolved against the folder of the file that holds it.

use std::fmt;
use std::path::Path;

use serde::de::value::{StrDeserializer, StringDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Unexpected, Visitor};

use crate::config::error::{ConfigError, Origin, nearest};
use crate::config::tree::{self, Node, Value};

/// Errors told before giving up.
const MOST_ERRORS: usize = 100;

/// Reads `root` as a `T`, or says everything that is wrong with it.
pub(in crate::config) fn decode<T: DeserializeOwned>(root: &Node) -> Result<T, Vec<ConfigError>> {
    let mut root = root.clone();
    let mut errors = Vec::new();
    let mut removed: Vec<Vec<String>> = Vec::new();
    loop {
        let fault = match T::deserialize(Reader { node: &root }) {
            Ok(value) if errors.is_empty() => return Ok(value),
            Ok(_) => return Err(errors),
            Err(fault) => fault,
        };
        let mut path = fault.path.clone();
        let follows = removed.iter().any(|gone| gone.starts_with(&path));
        if !follows {
            errors.push(fault.into_error(&root));
        }
        while !path.is_empty() && !root.remove(&path) {
            path.pop();
        }
        if path.is_empty() || errors.len() >= MOST_ERRORS {
            return Err(errors);
        }
        removed.push(path);
    }
}

/// What serde says, with the path walked.
#[derive(Debug)]
struct Fault {
    message: String,
    suggestion: Option<String>,
    origin: Option<Origin>,
    /// Keys from the root; places in lists are left out.
    path: Vec<String>,
}

impl Fault {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), suggestion: None, origin: None, path: Vec::new() }
    }

    fn at(mut self, origin: &Origin) -> Self {
        self.origin.get_or_insert_with(|| origin.clone());
        self
    }

    fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.to_owned());
        self
    }

    fn into_error(self, root: &Node) -> ConfigError {
        let origin = self.origin.unwrap_or_else(|| root.origin.clone());
        ConfigError { origin, key: self.path.join("."), message: self.message, suggestion: self.suggestion }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    /// Names the kind of what was found and not its value, which may be a secret in the wrong form.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new(format!("expected {expected}, found {}", kind_of(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        match found {
            Unexpected::Signed(number) => Self::new(format!("expected {expected}, found {number}")),
            Unexpected::Unsigned(number) => Self::new(format!("expected {expected}, found {number}")),
            other => Self::invalid_type(other, expected),
        }
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let suggestion = nearest(variant, expected.iter().copied());
        Self { suggestion, ..Self::new(format!("unknown word {variant:?}, expected one of {}", expected.join(", "))) }
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let suggestion = nearest(field, expected.iter().copied());
        let known = if suggestion.is_some() { String::new() } else { format!(", known here: {}", expected.join(", ")) };
        Self { suggestion, ..Self::new(format!("unknown key{known}")) }
    }

    fn missing_field(field: &'static str) -> Self {
        Self { path: vec![field.to_owned()], ..Self::new("the key is missing") }
    }
}

fn kind_of(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a fraction",
        Unexpected::Str(_) | Unexpected::Char(_) => "a text",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => "another kind of value",
    }
}

/// Reads one node.
#[derive(Clone, Copy)]
struct Reader<'a> {
    node: &'a Node,
}

impl Reader<'_> {
    /// A number or a word out of the environment's text.
    fn parsed<T: std::str::FromStr>(self) -> Option<T> {
        match &self.node.value {
            Value::Environment(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    /// The environment's text as the TOML value it spells.
    fn spelled(self, text: &str) -> Result<Node, Fault> {
        let at = |fault: Fault| fault.at(&self.node.origin);
        let table = tree::parse(Path::new("environment"), &format!("value = {text}"))
            .map_err(|_| at(Fault::new("expected a value as TOML writes it")))?;
        let mut node = table.get("value").cloned().ok_or_else(|| at(Fault::new("expected a value")))?;
        set_origin(&mut node, &self.node.origin);
        Ok(node)
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.parsed::<i64>() {
            Some(number) => visitor.visit_i64(number).map_err(|fault: Fault| fault.at(&self.node.origin)),
            None => self.deserialize_any(visitor),
        }
    }
}

fn set_origin(node: &mut Node, origin: &Origin) {
    node.origin = origin.clone();
    node.key_origin = origin.clone();
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(|item| set_origin(item, origin)),
        Value::Table(entries) => entries.values_mut().for_each(|entry| set_origin(entry, origin)),
        _ => {}
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let read = match &self.node.value {
            Value::Environment(text) if text.starts_with(['[', '{']) => {
                let value = self.spelled(text)?;
                return Reader { node: &value }.deserialize_any(visitor);
            }
            Value::Text(text) | Value::Environment(text) => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(value) => visitor.visit_bool(*value),
            Value::Date => Err(de::Error::invalid_type(Unexpected::Other("date"), &visitor)),
            Value::List(items) => visitor.visit_seq(Items { rest: items.iter() }),
            Value::Table(entries) => visitor.visit_map(Entries { rest: entries.iter(), value: None }),
        };
        read.map_err(|fault: Fault| fault.at(&self.node.origin))
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.parsed::<bool>() {
            Some(value) => visitor.visit_bool(value),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.number(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match self.parsed::<f64>() {
            Some(value) => visitor.visit_f64(value),
            None => self.deserialize_any(visitor),
        }
    }

    /// A list out of the environment is written as in TOML, or as words with commas between them.
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Environment(text) if !text.starts_with('[') => {
                let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
                let words: Vec<Node> = words
                    .map(|word| Node { value: Value::Environment(word.to_owned()), ..self.node.clone() })
                    .collect();
                visitor.visit_seq(Items { rest: words.iter() }).map_err(|fault| fault.at(&self.node.origin))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    /// Text stays text, also when it begins as a list would: it may be a password.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Environment(text) => visitor.visit_str(text).map_err(|fault: Fault| fault.at(&self.node.origin)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        match (&self.node.value, &self.node.origin) {
            (Value::Text(text), Origin::File { file, .. }) if name == "FilePath" => {
                let folder = file.parent().unwrap_or(Path::new(""));
                let path = folder.join(text).to_string_lossy().into_owned();
                let deserializer: StringDeserializer<Fault> = path.into_deserializer();
                visitor.visit_newtype_struct(deserializer)
            }
            _ => visitor.visit_newtype_struct(self),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Text(text) | Value::Environment(text) => {
                let word: StrDeserializer<'_, Fault> = text.as_str().into_deserializer();
                visitor.visit_enum(word).map_err(|fault| fault.at(&self.node.origin))
            }
            _ => Err(Fault::new("expected a word in quotes").at(&self.node.origin)),
        }
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i128 u128 f32 char bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
        ignored_any
    }
}

/// The elements of a list; an error in one gets its place.
struct Items<'a> {
    rest: std::slice::Iter<'a, Node>,
}

impl<'de> de::SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        seed.deserialize(Reader { node }).map(Some).map_err(|fault| fault.at(&node.origin))
    }
}

/// The entries of a table; an error in one gets its key and its place.
struct Entries<'a> {
    rest: std::collections::btree_map::Iter<'a, String, Node>,
    value: Option<(&'a String, &'a Node)>,
}

impl<'de> de::MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, node)) = self.rest.next() else { return Ok(None) };
        self.value = Some((key, node));
        let word: StrDeserializer<'_, Fault> = key.as_str().into_deserializer();
        seed.deserialize(word).map(Some).map_err(|fault| fault.at(&node.key_origin).below(key))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let (key, node) = self.value.take().ok_or_else(|| Fault::new("a value was asked for before its key"))?;
        seed.deserialize(Reader { node }).map_err(|fault| fault.at(&node.origin).below(key))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_error_is_told_with_its_place() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[expect(dead_code, reason = "read by the derive only")]
            port: u16,
        }
        let text = "[a]\nport = \"x\"\n[b]\nprot = 1\nport = 70000\n[c]\n";
        let tree = tree::parse(Path::new("f.toml"), text).unwrap();
        let errors = decode::<BTreeMap<String, Inner>>(&tree).unwrap_err();
        let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "f.toml:2:8: a.port: expected u16, found a text",
                "f.toml:5:8: b.port: expected u16, found 70000",
                "f.toml:4:1: b.prot: unknown key, did you mean \"port\"?",
                "f.toml:6:1: c.port: the key is missing",
            ]
        );
    }
}
