//! Proofs that one row lay in a sealed partition: from the row's bytes over its hash and an audit path to the signed root.
//!
//! A proof holds the row's canonical bytes, so it is as confidential as the row. Whoever has it, the seal and the signing key's
//! certificate needs neither the database nor the archive nor a key to decrypt it.

use chrono::NaiveDateTime;
use serde::{Deserialize, Serialize};

use crate::model::audit::merkle;
use crate::model::audit::row::Entry;
use crate::model::audit::seal::Seal;
use crate::model::copy_text::{NULL, unescape};
use crate::model::digest::Digest;

/// Format number of the document.
pub const FORMAT: u32 = 1;

/// That one row lay in a sealed partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Format number.
    pub format: u32,
    /// The row's id, a uuid.
    pub id: String,
    /// The partition.
    pub partition: String,
    /// Its place in the chain.
    pub seq: i64,
    /// Its place among the partition's rows, from 0.
    pub index: u64,
    /// Its canonical bytes (`row.rs`), in hexadecimal digits; the seal says by which formula they are hashed.
    pub row: String,
    /// Its hash.
    pub hash: Digest,
    /// The audit path (RFC 6962, section 2.1.1), the sibling of the leaf first.
    pub path: Vec<Digest>,
    /// Digest of the signed seal.
    pub seal: Digest,
}

/// Why a proof does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// The row's bytes are no bytes of a row, or of another row.
    #[error("the bytes are not those of row {0}")]
    OtherRow(String),
    /// The bytes have another hash.
    #[error("the bytes hash to {0}, the proof is of {1}")]
    OtherHash(Digest, Digest),
    /// The path does not lead to the root.
    #[error("the path does not lead from the row to the root of the seal")]
    OtherRoot,
}

impl Proof {
    /// Checks it against `seal`, which somebody has checked the signature of.
    pub fn check(&self, seal: &Seal) -> Result<(), Unproven> {
        let bytes = from_hex(&self.row).ok_or_else(|| Unproven::OtherRow(self.id.clone()))?;
        let id: String = self.id.chars().filter(|c| *c != '-').collect::<String>().to_lowercase();
        // The first field of the canonical bytes is the id: its length, 16, and its bytes.
        if bytes.get(..4) != Some(&[0, 0, 0, 16]) || bytes.get(4..20).map(to_hex) != Some(id) {
            return Err(Unproven::OtherRow(self.id.clone()));
        }
        let hash = seal.profiles.hash_of(&bytes).map_err(|_| Unproven::OtherRow(self.id.clone()))?;
        if hash != self.hash {
            return Err(Unproven::OtherHash(hash, self.hash));
        }
        let leaf = merkle::leaf(hash.as_bytes());
        match merkle::is_included(&leaf, self.index, seal.rows, &self.path, &seal.root) {
            true => Ok(()),
            false => Err(Unproven::OtherRoot),
        }
    }
}

/// `bytes` in hexadecimal digits.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that hexadecimal digits say; blanks and line ends around them do not matter.
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim().as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    pairs.collect()
}

/// A row as an archive has it: its values, and the hash that lay beside them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchivedRow {
    /// The values.
    pub entry: Entry,
    /// The column `hash`.
    pub hash: Option<Digest>,
}

/// Reads rows of the log out of COPY text in UTF-8, whatever the order of its columns.
#[derive(Clone, Debug)]
pub struct RowReader {
    columns: Vec<String>,
}

impl RowReader {
    /// A reader of what `COPY schema.name (columns) FROM stdin;` loads. Nothing when that names no columns.
    pub fn new(copy_statement: &str) -> Option<Self> {
        let (_, rest) = copy_statement.split_once(" (")?;
        let (columns, _) = rest.rsplit_once(") FROM")?;
        Some(Self { columns: columns.split(", ").map(|name| name.trim_matches('"').to_owned()).collect() })
    }

    /// The row that a line says, its end cut off. Nothing when it is no row of the log.
    pub fn read(&self, line: &[u8]) -> Option<ArchivedRow> {
        let mut row = ArchivedRow { entry: Entry::default(), hash: None };
        let mut fields = line.split(|byte| *byte == b'\t');
        for column in &self.columns {
            let field = fields.next()?;
            let text = if field == NULL { None } else { Some(plain(field)?) };
            take(&mut row, column, text)?;
        }
        fields.next().is_none().then_some(row)
    }
}

fn plain(field: &[u8]) -> Option<String> {
    let mut bytes = Vec::new();
    unescape(field, &mut bytes).ok()?;
    String::from_utf8(bytes).ok()
}

fn take(row: &mut ArchivedRow, column: &str, text: Option<String>) -> Option<()> {
    let entry = &mut row.entry;
    let uuid = |text: &Option<String>| text.as_deref().map(uuid_bytes);
    match column {
        "id" => entry.id = uuid(&text)??,
        "user_id" => entry.user_id = uuid(&text).map_or(Some(None), |id| id.map(Some))?,
        "session_id" => entry.session_id = uuid(&text).map_or(Some(None), |id| id.map(Some))?,
        "action" => entry.what[0] = text,
        "resource" => entry.what[1] = text,
        "resource_id" => entry.what[2] = text,
        "details" => entry.details = text,
        "ip_address" => entry.from[0] = text,
        "user_agent" => entry.from[1] = text,
        "success" => {
            entry.success = match text.as_deref() {
                None => None,
                Some("t") => Some(true),
                Some("f") => Some(false),
                Some(_) => return None,
            }
        }
        "error_code" => entry.error[0] = text,
        "error_message" => entry.error[1] = text,
        "recorded_at" => entry.recorded_at = micros(&text?)?,
        "previous_hash" => entry.previous_hash = text,
        "hash" => row.hash = text?.parse().ok(),
        _ => return None,
    }
    Some(())
}

fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    from_hex(&digits)?.try_into().ok()
}

/// Microseconds since 2000-01-01 of a timestamp as pg_dump writes it (DateStyle ISO).
fn micros(text: &str) -> Option<i64> {
    match text {
        "infinity" => return Some(i64::MAX),
        "-infinity" => return Some(i64::MIN),
        _ => {}
    }
    let read = |text| NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").ok();
    (read(text)? - read("2000-01-01 00:00:00")?).num_microseconds()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: &str = "COPY public.audit_logs_2022_01 (hash, id, user_id, session_id, action, resource, resource_id, details, ip_address, user_agent, success, error_code, error_message, recorded_at, previous_hash) FROM stdin;\n";

    #[test]
    fn a_row_of_copy_text_has_the_values_it_had() {
        let hash = "ab".repeat(32);
        let line = format!(
            "{hash}\t00000000-0000-0000-0000-0000000000ff\t\\N\t\\N\ttab\\tend\t\t\\N\t{{\"a\": \"x\\\\\\\\y\"}}\t\\N\t\\N\tf\t\\N\tgrün\t2022-01-31 23:59:59.000001\t\\N"
        );
        let row = RowReader::new(COPY).unwrap().read(line.as_bytes()).unwrap();
        let mut id = [0; 16];
        id[15] = 0xff;
        let entry = Entry {
            id,
            what: [Some("tab\tend".into()), Some(String::new()), None],
            details: Some(r#"{"a": "x\\y"}"#.into()),
            success: Some(false),
            error: [None, Some("grün".into())],
            recorded_at: 696_988_799_000_001,
            ..Entry::default()
        };
        assert_eq!(row, ArchivedRow { entry, hash: Some(hash.parse().unwrap()) });
        for broken in ["", "x\ty", &line.replace("\tf\t", "\ttrue\t"), &format!("{line}\tmore")] {
            assert_eq!(RowReader::new(COPY).unwrap().read(broken.as_bytes()), None, "{broken}");
        }
        assert!(RowReader::new("COPY x FROM stdin;\n").is_none());
    }

    #[test]
    fn digits_are_read_back() {
        assert_eq!(from_hex(" 00ff7f\n"), Some(vec![0, 255, 127]));
        assert_eq!(to_hex(&[0, 255, 127]), "00ff7f");
        assert!(from_hex("0").is_none() && from_hex("xy").is_none());
    }
}
