//! Rows with their canonical bytes and hashes, worked out by a program that shares nothing with this one: what the encoder
//! here, the functions in the database and the server's binary COPY must all give. Never edited; a new profile has new ones.

/// The vectors of profile `dbagent/audit_logs/v1` as JSON: `{"profile", "rows": [{"name", the columns as text, "details_text",
/// "bytes", "hash"}]}`.
pub const ROWS_V1: &str = include_str!("../../../tests/fixtures/chains/rows-v1.json");

#[cfg(test)]
mod tests {
    use chrono::{NaiveDateTime, TimeDelta};
    use serde_json::Value;

    use super::*;
    use crate::model::audit::row::Entry;

    fn micros(text: &str) -> i64 {
        match text {
            "infinity" => i64::MAX,
            "-infinity" => i64::MIN,
            text => {
                let at = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap();
                let epoch = "2000-01-01T00:00:00".parse::<NaiveDateTime>().unwrap();
                let since: TimeDelta = at - epoch;
                since.num_microseconds().unwrap()
            }
        }
    }

    fn entry(row: &Value) -> Entry {
        let text = |name: &str| row[name].as_str().map(str::to_owned);
        let uuid = |name: &str| row[name].as_str().map(|text| *text.parse::<uuid::Uuid>().unwrap().as_bytes());
        Entry {
            id: uuid("id").unwrap(),
            user_id: uuid("user_id"),
            session_id: uuid("session_id"),
            what: ["action", "resource", "resource_id"].map(text),
            details: text("details_text"),
            from: ["ip_address", "user_agent"].map(text),
            success: row["success"].as_bool(),
            error: ["error_code", "error_message"].map(text),
            recorded_at: micros(row["recorded_at"].as_str().unwrap()),
            previous_hash: text("previous_hash"),
        }
    }

    #[test]
    fn f104_the_encoder_gives_the_vectors() {
        let vectors: Value = serde_json::from_str(ROWS_V1).unwrap();
        let rows = vectors["rows"].as_array().unwrap();
        assert!(rows.len() >= 60);
        let mut hashes = std::collections::BTreeSet::new();
        for row in rows {
            let (entry, name) = (entry(row), row["name"].as_str().unwrap());
            let bytes: String = entry.canonical_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(bytes, row["bytes"].as_str().unwrap(), "{name}");
            assert_eq!(entry.hash().to_string(), row["hash"].as_str().unwrap(), "{name}");
            hashes.insert(entry.hash());
        }
        assert_eq!(hashes.len(), rows.len(), "different rows have different hashes");
    }
}
