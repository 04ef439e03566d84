//! What a job's `keep` says: which of its artifacts stay, in one repository or in all.
//!
//! A text is an age (`"30 days"`), a table is rules by name (`{ count = 7, monthly = 12 }`) or rules by repository
//! (`{ local = "30 days", s3 = { window = "30 days" } }`); the names of the rules are therefore no names for
//! repositories. Several rules add up: what any of them keeps stays. No `keep` at all means for ever.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::model::span::Span;

/// The names of the rules, reserved among the names of repositories.
pub const RULE_NAMES: [&str; 6] = ["age", "count", "chains", "window", "monthly", "yearly"];

/// Rules that each keep something; at least one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Keep {
    /// Everything younger than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<Span>,
    /// The newest so many good ones, and what is newer than the last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<NonZeroU32>,
    /// Everything in the newest so many chains, a chain being a full one with what builds upon it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chains: Option<NonZeroU32>,
    /// What is needed to go back to any moment within this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Span>,
    /// The last good one of each of the newest so many calendar months (UTC) that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monthly: Option<NonZeroU32>,
    /// The last good one of each of the newest so many calendar years (UTC) that have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub yearly: Option<NonZeroU32>,
}

impl Keep {
    /// Keeps by age alone.
    pub fn age(age: Span) -> Self {
        Self { age: Some(age), ..Self::default() }
    }

    /// Takes one rule of a table; false when `name` is not the name of a rule.
    fn take<'de, A: de::MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "age" => self.age = Some(map.next_value()?),
            "count" => self.count = Some(map.next_value()?),
            "chains" => self.chains = Some(map.next_value()?),
            "window" => self.window = Some(map.next_value()?),
            "monthly" => self.monthly = Some(map.next_value()?),
            "yearly" => self.yearly = Some(map.next_value()?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The same rules, unless there are none or one keeps nothing.
    fn checked<E: de::Error>(self) -> Result<Self, E> {
        if self == Self::default() {
            return Err(E::custom("keep nothing: leave the key out to keep for ever"));
        }
        if [self.age, self.window].into_iter().flatten().any(|span| span.is_zero()) {
            return Err(E::custom("keep for no time at all: write a length above zero"));
        }
        Ok(self)
    }
}

impl fmt::Display for Keep {
    /// What falls outside, fit for "expires because it is …".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = [
            self.age.map(|age| format!("older than {age}")),
            self.count.map(|count| format!("beyond the newest {count}")),
            self.chains.map(|chains| format!("beyond the newest {chains} chains")),
            self.window.map(|window| format!("before the recovery window of {window}")),
            self.monthly.map(|months| format!("not the last of one of the newest {months} months")),
            self.yearly.map(|years| format!("not the last of one of the newest {years} years")),
        ];
        f.write_str(&rules.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// The name of a rule; refused as a key, so that the refusal stands where the key stands.
struct RuleName(String);

impl<'de> Deserialize<'de> for RuleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if RULE_NAMES.contains(&name.as_str()) {
            Ok(Self(name))
        } else {
            Err(de::Error::unknown_field(&name, &RULE_NAMES))
        }
    }
}

struct KeepVisitor;

impl<'de> de::Visitor<'de> for KeepVisitor {
    type Value = Keep;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what to keep, such as \"30 days\" or { count = 7 }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Keep, E> {
        Keep::age(text.parse().map_err(E::custom)?).checked()
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Keep, A::Error> {
        let mut keep = Keep::default();
        while let Some(RuleName(name)) = map.next_key()? {
            keep.take(&name, &mut map)?;
        }
        keep.checked()
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepVisitor)
    }
}

/// A value for every repository, or one for each by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PerRepository<T> {
    /// The same in all.
    All(T),
    /// By repository name; the others have none.
    Named(BTreeMap<String, T>),
}

impl<T> PerRepository<T> {
    /// The value for the repository `name`.
    pub fn get(&self, name: &str) -> Option<&T> {
        match self {
            Self::All(value) => Some(value),
            Self::Named(values) => values.get(name),
        }
    }

    /// The repositories it names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let named = match self {
            Self::All(_) => None,
            Self::Named(values) => Some(values.keys().map(String::as_str)),
        };
        named.into_iter().flatten()
    }
}

impl<T: Serialize> Serialize for PerRepository<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All(value) => value.serialize(serializer),
            Self::Named(values) => values.serialize(serializer),
        }
    }
}

struct KeepByRepository;

impl<'de> de::Visitor<'de> for KeepByRepository {
    type Value = PerRepository<Keep>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what to keep, such as \"30 days\", { count = 7 } or { local = \"30 days\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        KeepVisitor.visit_str(text).map(PerRepository::All)
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut everywhere, mut named) = (Keep::default(), BTreeMap::new());
        while let Some(name) = map.next_key::<String>()? {
            if !everywhere.take(&name, &mut map)? {
                named.insert(name, map.next_value::<Keep>()?);
            }
        }
        match (everywhere == Keep::default(), named.is_empty()) {
            (true, false) => Ok(PerRepository::Named(named)),
            (false, false) => Err(de::Error::custom("mix rules and names of repositories in one table")),
            (_, true) => everywhere.checked().map(PerRepository::All),
        }
    }
}

impl<'de> Deserialize<'de> for PerRepository<Keep> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeepByRepository)
    }
}

struct TextByRepository;

impl<'de> de::Visitor<'de> for TextByRepository {
    type Value = PerRepository<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, or texts by repository such as { s3 = \"GLACIER\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(PerRepository::All(text.to_owned()))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        BTreeMap::deserialize(de::value::MapAccessDeserializer::new(map)).map(PerRepository::Named)
    }
}

impl<'de> Deserialize<'de> for PerRepository<String> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextByRepository)
    }
}

impl JsonSchema for Keep {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Keep".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (span, count) = (generator.subschema_for::<Span>(), generator.subschema_for::<NonZeroU32>());
        json_schema!({ "anyOf": [span, {
            "type": "object",
            "additionalProperties": false,
            "minProperties": 1,
            "properties": {
                "age": span, "count": count, "chains": count, "window": span, "monthly": count, "yearly": count
            }
        }] })
    }
}

impl<T: JsonSchema> JsonSchema for PerRepository<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("PerRepository_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [one, { "type": "object", "additionalProperties": one }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(toml: &str) -> Result<PerRepository<Keep>, toml::de::Error> {
        let read: BTreeMap<String, PerRepository<Keep>> = toml::from_str(&format!("keep = {toml}"))?;
        Ok(read["keep"].clone())
    }

    #[test]
    fn every_form_of_the_plans_is_read() {
        let days = Keep::age("30 days".parse().unwrap());
        let seven = Keep { count: NonZeroU32::new(7), ..Keep::default() };
        assert_eq!(keep(r#""30 days""#).unwrap(), PerRepository::All(days.clone()));
        assert_eq!(keep("{ count = 7 }").unwrap(), PerRepository::All(seven.clone()));
        let named = keep(r#"{ local = "30 days", s3 = { count = 7 } }"#).unwrap();
        assert_eq!((named.get("local"), named.get("s3"), named.get("other")), (Some(&days), Some(&seven), None));
        let several = keep(r#"{ age = "30 days", monthly = 12, yearly = 3 }"#).unwrap();
        assert_eq!(several.get("any").unwrap().monthly, NonZeroU32::new(12));
    }

    #[test]
    fn f97_a_rule_that_keeps_nothing_is_refused() {
        for text in
            [r#""0 days""#, "{}", "{ count = 0 }", "{ count = -1 }", r#"{ window = "0 s" }"#, "7", "{ s3 = {} }"]
        {
            assert!(keep(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn rules_and_repositories_do_not_mix() {
        let error = keep(r#"{ count = 7, s3 = "30 days" }"#).unwrap_err().to_string();
        assert!(error.contains("mix rules and names"), "{error}");
    }
}
