//! Formulas that an earlier application hashed its rows with: named, each pinned for an explicit range of `recorded_at`.
//!
//! A row inside a range is hashed by that range's formula and by no other; every row outside by `dbagent/audit_logs/v1`, which
//! is also what the trigger writes. The definition has a digest, which is signed: whoever edits it later is found. Ranges make
//! one chain: the first row after a range names the last hash inside it.
//!
//! A formula is SHA-256 over columns in their order, each in a fixed text encoding, with what is written before, between and
//! after them. Nothing in it is evaluated.

mod encoding;

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::model::audit::checkpoint::canonical;
use crate::model::audit::row::{self, HASHED, PREVIOUS, RECORDED_AT};
use crate::model::copy_binary::{Malformed, fixed, next_field};
use crate::model::digest::{Digest, Hasher};

pub use encoding::Column;

/// Longest name, in bytes.
const LONGEST_NAME: usize = 63;

/// A formula and its range, as it is written, stored and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// Its name, as `consulting_tool/v2`.
    pub name: String,
    /// The first instant of `recorded_at`, whole microseconds.
    pub from: DateTime<Utc>,
    /// The instant after the last.
    pub until: DateTime<Utc>,
    /// What comes before the first column.
    pub prefix: String,
    /// What comes between two columns.
    pub separator: String,
    /// What comes after the last column.
    pub suffix: String,
    /// What stands for NULL.
    pub null: String,
    /// `previous_hash` of the first row of all, where that is not NULL.
    pub genesis: Option<Digest>,
    /// The columns, each `name` or `name:encoding`.
    pub columns: Vec<String>,
}

/// What is wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct Fault {
    /// The key of the definition.
    pub key: &'static str,
    /// What is wrong with it.
    pub message: String,
    /// A word that is not known, and those that are.
    pub unknown: Option<(String, Vec<&'static str>)>,
}

impl Fault {
    fn new(key: &'static str, message: impl Into<String>) -> Self {
        Self { key, message: message.into(), unknown: None }
    }
}

/// A formula that can be computed, for a range that is one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Definition", into = "Definition")]
pub struct Profile {
    definition: Definition,
    /// Microseconds since 2000-01-01, the second outside.
    range: (i64, i64),
    columns: Vec<Column>,
}

impl Profile {
    /// The formula that `definition` says, or everything that is wrong with it.
    pub fn of(definition: Definition) -> Result<Self, Vec<Fault>> {
        let mut faults = name_fault(&definition.name).into_iter().collect();
        let range = range_of(&definition, &mut faults);
        let columns = columns_of(&definition, &mut faults);
        match faults.is_empty() {
            true => Ok(Self { definition, range, columns }),
            false => Err(faults),
        }
    }

    /// As it was written.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// SHA-256 of the definition in canonical JSON.
    pub fn digest(&self) -> Digest {
        Digest::of(self.to_json().as_bytes())
    }

    /// The definition in canonical JSON.
    pub fn to_json(&self) -> String {
        serde_json::to_value(&self.definition).map(|value| canonical(&value)).unwrap_or_default()
    }

    /// Columns of the log that the hash says nothing of.
    pub fn uncovered(&self) -> Vec<&'static str> {
        let covered = |at: &usize| self.columns.iter().any(|column| column.place() == *at);
        (0..HASHED).filter(|at| !covered(at)).filter_map(encoding::name_of).collect()
    }

    fn covers(&self, recorded_at: i64) -> bool {
        self.range.0 <= recorded_at && recorded_at < self.range.1
    }

    /// The hash of a row with these fields, a tuple of the hashed columns in binary COPY.
    fn hash(&self, fields: &[u8]) -> Result<Digest, Malformed> {
        let (mut rest, mut values) = (fields, [None; HASHED]);
        for value in &mut values {
            *value = next_field(&mut rest)?;
        }
        let Definition { prefix, separator, suffix, null, .. } = &self.definition;
        let mut text = Vec::with_capacity(fields.len() + 64);
        text.extend_from_slice(prefix.as_bytes());
        for (at, column) in self.columns.iter().enumerate() {
            if at > 0 {
                text.extend_from_slice(separator.as_bytes());
            }
            match values[column.place()] {
                Some(value) => column.write(value, &mut text)?,
                None => text.extend_from_slice(null.as_bytes()),
            }
        }
        text.extend_from_slice(suffix.as_bytes());
        Ok(Digest::of(&text))
    }
}

impl TryFrom<Definition> for Profile {
    type Error = String;

    fn try_from(definition: Definition) -> Result<Self, String> {
        let told = |faults: Vec<Fault>| faults.iter().map(Fault::to_string).collect::<Vec<_>>().join("; ");
        Self::of(definition).map_err(told)
    }
}

impl From<Profile> for Definition {
    fn from(profile: Profile) -> Self {
        profile.definition
    }
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.definition.fmt(f)
    }
}

fn name_fault(name: &str) -> Option<Fault> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '/');
    let fine = !name.is_empty() && name.len() <= LONGEST_NAME && name.chars().all(allowed);
    if name.starts_with("dbagent/") {
        return Some(Fault::new("name", "names that begin with dbagent/ are of formulas built in"));
    }
    (!fine).then(|| Fault::new("name", "a name is 1 to 63 letters, digits, hyphens, underscores and slashes"))
}

fn range_of(definition: &Definition, faults: &mut Vec<Fault>) -> (i64, i64) {
    let mut ends = [0; 2];
    for ((key, at), end) in [("from", definition.from), ("until", definition.until)].into_iter().zip(&mut ends) {
        match micros(at) {
            Some(micros) => *end = micros,
            None => faults.push(Fault::new(key, "expected whole microseconds of the years 1 to 9999")),
        }
    }
    if faults.iter().all(|fault| fault.key == "name") && ends[0] >= ends[1] {
        faults.push(Fault::new("until", "the range is empty: until is not after from"));
    }
    (ends[0], ends[1])
}

/// Microseconds since 2000-01-01, of instants that every encoding of a time can say.
fn micros(at: DateTime<Utc>) -> Option<i64> {
    use chrono::Datelike as _;
    let whole = at.trunc_subsecs(6) == at && (1..=9999).contains(&at.year());
    let since = at - (DateTime::UNIX_EPOCH + TimeDelta::seconds(row::EPOCH_SECONDS));
    since.num_microseconds().filter(|_| whole)
}

fn columns_of(definition: &Definition, faults: &mut Vec<Fault>) -> Vec<Column> {
    let mut columns: Vec<Column> = Vec::new();
    for word in &definition.columns {
        match Column::parse(word) {
            Ok(column) if columns.iter().any(|other| other.place() == column.place()) => {
                faults.push(Fault::new("columns", format!("{word:?} is there twice")));
            }
            Ok(column) => columns.push(column),
            Err(fault) => faults.push(fault),
        }
    }
    let misses = |at: usize| !columns.iter().any(|column| column.place() == at);
    if faults.iter().all(|fault| fault.key != "columns") && misses(PREVIOUS) {
        let message = "previous_hash is not among them: a hash that does not cover it chains nothing";
        faults.push(Fault::new("columns", message));
    }
    columns
}

/// The formulas that are pinned, in the order of their ranges; usually none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Profile>", into = "Vec<Profile>")]
pub struct Profiles(Arc<[Profile]>);

/// Two profiles that cannot stand side by side: the name of the later, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("profile {name:?}: {fault}")]
pub struct Unfit {
    /// The later one's name.
    pub name: String,
    /// What is wrong.
    pub fault: Fault,
}

impl Profiles {
    /// All of `profiles`, whatever their order.
    pub fn of(mut profiles: Vec<Profile>) -> Result<Self, Unfit> {
        profiles.sort_by_key(|profile| profile.range);
        for pair in profiles.windows(2) {
            let unfit =
                |key, message: String| Err(Unfit { name: pair[1].name().to_owned(), fault: Fault::new(key, message) });
            if pair[0].name() == pair[1].name() {
                return unfit("name", "it is there twice".to_owned());
            }
            if pair[1].range.0 < pair[0].range.1 {
                return unfit("from", format!("its range overlaps with that of {:?}", pair[0].name()));
            }
            if pair[1].definition.genesis.is_some() {
                let message = format!("only the first range begins the chain, and {:?} is before", pair[0].name());
                return unfit("genesis", message);
            }
        }
        Ok(Self(profiles.into()))
    }

    /// Whether every row is hashed by v1.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each, in the order of their ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Profile> {
        self.0.iter()
    }

    /// SHA-256 over the digests of all; nothing where there is none.
    pub fn digest(&self) -> Option<Digest> {
        let mut hasher = Hasher::default();
        self.0.iter().for_each(|profile| hasher.update(profile.digest().as_bytes()));
        (!self.is_empty()).then(|| hasher.finish())
    }

    /// The one whose range has `recorded_at` (microseconds since 2000-01-01).
    pub fn at(&self, recorded_at: i64) -> Option<&Profile> {
        self.0.iter().find(|profile| profile.covers(recorded_at))
    }

    /// The instant after the last range.
    pub fn end(&self) -> Option<DateTime<Utc>> {
        self.0.last().map(|profile| profile.definition.until)
    }

    /// `previous_hash` of the first row of all, where that is not NULL.
    pub fn genesis(&self) -> Option<Digest> {
        self.0.first()?.definition.genesis
    }

    /// What the hash of a row must be whose canonical bytes (`row.rs`) are these: by the formula of its range, else by v1.
    pub fn hash_of(&self, canonical: &[u8]) -> Result<Digest, Malformed> {
        let profile = match self.is_empty() {
            true => None,
            false => self.at(recorded_at(canonical)?),
        };
        profile.map_or_else(|| Ok(row::hash_v1(canonical)), |profile| profile.hash(canonical))
    }
}

fn recorded_at(canonical: &[u8]) -> Result<i64, Malformed> {
    let mut rest = canonical;
    for _ in 0..RECORDED_AT {
        next_field(&mut rest)?;
    }
    Ok(i64::from_be_bytes(fixed(next_field(&mut rest)?)?))
}

impl TryFrom<Vec<Profile>> for Profiles {
    type Error = Unfit;

    fn try_from(profiles: Vec<Profile>) -> Result<Self, Unfit> {
        Self::of(profiles)
    }
}

impl From<Profiles> for Vec<Profile> {
    fn from(profiles: Profiles) -> Self {
        profiles.0.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::row::Entry;

    fn definition(name: &str, from: &str, until: &str, columns: &[&str]) -> Definition {
        Definition {
            name: name.into(),
            from: from.parse().unwrap(),
            until: until.parse().unwrap(),
            prefix: "v2:".into(),
            separator: "|".into(),
            suffix: ";".into(),
            null: "-".into(),
            genesis: None,
            columns: columns.iter().map(|column| (*column).to_owned()).collect(),
        }
    }

    fn profile(name: &str, from: &str, until: &str) -> Profile {
        Profile::of(definition(name, from, until, &["id", "action", "previous_hash"])).unwrap()
    }

    fn faults(definition: Definition) -> Vec<String> {
        Profile::of(definition).unwrap_err().iter().map(ToString::to_string).collect()
    }

    const A: &str = "2020-01-01T00:00:00Z";
    const B: &str = "2021-01-01T00:00:00Z";
    const C: &str = "2022-01-01T00:00:00Z";

    #[test]
    fn a_row_is_hashed_by_the_formula_of_its_range_and_else_by_v1() {
        let profiles = Profiles::of(vec![profile("app/v2", A, B)]).unwrap();
        let row = |recorded_at| Entry { what: [Some("login".into()), None, None], recorded_at, ..Entry::default() };
        let start = 631_152_000_000_000; // 2020-01-01
        let year = 366 * 86_400_000_000;
        let old = Digest::of(b"v2:00000000-0000-0000-0000-000000000000|login|-;");
        for (at, is_old) in [(start - 1, false), (start, true), (start + year - 1, true), (start + year, false)] {
            let expected = if is_old { old } else { row(at).hash() };
            assert_eq!(profiles.hash_of(&row(at).canonical_bytes()).unwrap(), expected, "{at}");
            assert_eq!(Profiles::default().hash_of(&row(at).canonical_bytes()).unwrap(), row(at).hash());
        }
        assert!(profiles.hash_of(b"\0\0").is_err());
    }

    #[test]
    fn what_is_wrong_with_a_definition_is_said_key_by_key() {
        assert_eq!(
            faults(definition("a", B, A, &["previous_hash"])),
            ["until: the range is empty: until is not after from"]
        );
        let columns = ["id", "hash", "acton", "success:yes", "id:hex", "previous_hash"];
        let told = faults(definition("dbagent/x", A, B, &columns));
        assert_eq!(told[0], "name: names that begin with dbagent/ are of formulas built in");
        assert_eq!(told[1], "columns: \"hash\" cannot be among them: it is what is computed");
        assert_eq!(told[2], "columns: unknown column \"acton\"");
        assert_eq!(told[3], "columns: unknown encoding \"yes\" of success, expected one of text, letter, digit");
        assert_eq!(told[4], "columns: \"id:hex\" is there twice");
        let unchained = faults(definition("a", A, B, &["id"]));
        assert!(unchained[0].starts_with("columns: previous_hash is not among them"), "{unchained:?}");
    }

    #[test]
    fn ranges_follow_one_another_and_only_the_first_begins_the_chain() {
        let (one, two) = (profile("one", A, B), profile("two", B, C));
        let both = Profiles::of(vec![two.clone(), one.clone()]).unwrap();
        assert_eq!(both.iter().map(Profile::name).collect::<Vec<_>>(), ["one", "two"]);
        let over = Profiles::of(vec![one.clone(), profile("two", "2020-12-31T00:00:00Z", C)]).unwrap_err();
        assert_eq!(over.to_string(), "profile \"two\": from: its range overlaps with that of \"one\"");
        assert_eq!(Profiles::of(vec![one.clone(), profile("one", B, C)]).unwrap_err().fault.key, "name");
        let again = Definition { genesis: Some(Digest::of(b"")), ..two.definition };
        assert_eq!(Profiles::of(vec![one, Profile::of(again).unwrap()]).unwrap_err().fault.key, "genesis");
    }

    #[test]
    fn every_key_is_part_of_the_digest_and_it_is_read_back() {
        let base = definition("app/v2", A, B, &["id", "previous_hash"]);
        let others = [
            Definition { name: "app/v3".into(), ..base.clone() },
            Definition { from: "2020-01-01T00:00:01Z".parse().unwrap(), ..base.clone() },
            Definition { until: C.parse().unwrap(), ..base.clone() },
            Definition { prefix: String::new(), ..base.clone() },
            Definition { separator: ",".into(), ..base.clone() },
            Definition { suffix: String::new(), ..base.clone() },
            Definition { null: String::new(), ..base.clone() },
            Definition { genesis: Some(Digest::of(b"")), ..base.clone() },
            Definition { columns: vec!["previous_hash".into(), "id".into()], ..base.clone() },
            Definition { columns: vec!["id:hex".into(), "previous_hash".into()], ..base.clone() },
        ];
        let digest = |definition: &Definition| Profile::of(definition.clone()).unwrap().digest();
        let digests: std::collections::BTreeSet<_> = others.iter().chain([&base]).map(digest).collect();
        assert_eq!(digests.len(), others.len() + 1);
        let profiles = Profiles::of(vec![Profile::of(base).unwrap()]).unwrap();
        let text = serde_json::to_string(&profiles).unwrap();
        assert_eq!(serde_json::from_str::<Profiles>(&text).unwrap(), profiles);
        assert!(serde_json::from_str::<Profiles>(&text.replace("\"id\"", "\"it\"")).is_err(), "checked when read");
        assert_eq!(profiles.iter().next().unwrap().uncovered().len(), 12);
        assert_eq!(Profiles::default().digest(), None);
    }
}
