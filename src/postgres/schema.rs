//! What the agent owns in a database: the numbered files of `sql/schema/`, applied once each, forward only.
//!
//! Compiled in, recorded in `dbagent.migrations` with the digest of their text. A file that was changed after it had been
//! applied, or a record that this version does not know, stops the installation: nothing is guessed and nothing is undone.
//! The surprising thing: numbers are handed out by area (001-009 the agent, 010-049 partitions, 050-089 the audit chain),
//! so a lower one may be applied after a higher one.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use tokio_postgres::Client;

use crate::model::digest::Digest;
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// One file of `sql/schema/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migration {
    /// Its number.
    pub number: i32,
    /// The file's name without its ending.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
}

impl Migration {
    /// SHA-256 of its text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }
}

/// Every migration, by number.
pub const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, name: "001_agent_schema", text: include_str!("../../sql/schema/001_agent_schema.sql") },
    Migration {
        number: 10,
        name: "010_partition_roles",
        text: include_str!("../../sql/schema/010_partition_roles.sql"),
    },
    Migration {
        number: 11,
        name: "011_partition_tables",
        text: include_str!("../../sql/schema/011_partition_tables.sql"),
    },
    Migration {
        number: 12,
        name: "012_partition_facts",
        text: include_str!("../../sql/schema/012_partition_facts.sql"),
    },
    Migration { number: 13, name: "013_partition_form", text: include_str!("../../sql/schema/013_partition_form.sql") },
    Migration { number: 14, name: "014_partition_make", text: include_str!("../../sql/schema/014_partition_make.sql") },
    Migration { number: 15, name: "015_partition_drop", text: include_str!("../../sql/schema/015_partition_drop.sql") },
    Migration {
        number: 16,
        name: "016_partition_register",
        text: include_str!("../../sql/schema/016_partition_register.sql"),
    },
    Migration {
        number: 17,
        name: "017_partition_convert",
        text: include_str!("../../sql/schema/017_partition_convert.sql"),
    },
    Migration { number: 18, name: "018_partition_swap", text: include_str!("../../sql/schema/018_partition_swap.sql") },
    Migration { number: 50, name: "050_audit_roles", text: include_str!("../../sql/schema/050_audit_roles.sql") },
    Migration {
        number: 51,
        name: "051_audit_chain_tables",
        text: include_str!("../../sql/schema/051_audit_chain_tables.sql"),
    },
    Migration {
        number: 52,
        name: "052_audit_row_encoding",
        text: include_str!("../../sql/schema/052_audit_row_encoding.sql"),
    },
    Migration { number: 53, name: "053_audit_profiles", text: include_str!("../../sql/schema/053_audit_profiles.sql") },
    Migration {
        number: 55,
        name: "055_audit_chain_trigger",
        text: include_str!("../../sql/schema/055_audit_chain_trigger.sql"),
    },
    Migration { number: 56, name: "056_audit_backfill", text: include_str!("../../sql/schema/056_audit_backfill.sql") },
    Migration { number: 60, name: "060_audit_alerts", text: include_str!("../../sql/schema/060_audit_alerts.sql") },
    Migration { number: 61, name: "061_audit_seals", text: include_str!("../../sql/schema/061_audit_seals.sql") },
];

/// The numbers that partitions need.
pub const PARTITIONS: RangeInclusive<i32> = 1..=49;

/// The numbers of the agent itself, which all others need.
pub const AGENT: RangeInclusive<i32> = 1..=9;

/// The numbers of the audit chain; they need those of the agent.
pub const AUDIT: RangeInclusive<i32> = 50..=89;

/// First of the two keys of the lock under which migrations are applied: "dbag", the second is "sql".
const LOCK: (i32, i32) = (0x6462_6167, 0x0073_716c);

/// The migrations within `numbers` that are not applied yet, in order. Errors when what is recorded is not what this
/// version knows.
pub async fn pending(client: &Client, numbers: &RangeInclusive<i32>) -> Result<Vec<Migration>, PostgresError> {
    let recorded = recorded(client).await?;
    require_known(&recorded)?;
    let wanted = MIGRATIONS.iter().filter(|migration| numbers.contains(&migration.number));
    Ok(wanted.filter(|migration| !recorded.contains_key(&migration.number)).copied().collect())
}

/// Applies what is pending within `numbers`, all of it in one transaction or nothing. Gives what was applied. Needs a
/// superuser, or the database's owner with CREATEROLE.
pub async fn install(client: &Client, numbers: &RangeInclusive<i32>) -> Result<Vec<Migration>, PostgresError> {
    client.batch_execute("BEGIN").await?;
    match apply(client, numbers).await {
        Ok(applied) => {
            client.batch_execute("COMMIT").await?;
            Ok(applied)
        }
        Err(error) => {
            client.batch_execute("ROLLBACK").await?;
            Err(error)
        }
    }
}

async fn apply(client: &Client, numbers: &RangeInclusive<i32>) -> Result<Vec<Migration>, PostgresError> {
    let (class, key) = LOCK;
    client.batch_execute(&format!("SELECT pg_catalog.pg_advisory_xact_lock({class}, {key})")).await?;
    let pending = pending(client, numbers).await?;
    for migration in &pending {
        let applied = client.batch_execute(migration.text).await;
        applied.map_err(|error| PostgresError::from(error).during(&format!("apply sql/schema/{}", migration.name)))?;
        let insert = "INSERT INTO dbagent.migrations (number, name, digest, agent_version) VALUES ($1, $2, $3, $4)";
        let (digest, version) = (migration.digest().to_string(), env!("CARGO_PKG_VERSION"));
        client.execute(insert, &[&migration.number, &migration.name, &digest, &version]).await?;
    }
    Ok(pending)
}

/// Name and digest by number.
async fn recorded(client: &Client) -> Result<BTreeMap<i32, (String, String)>, PostgresError> {
    let exists = client.query_one(include_str!("../../sql/server/agent_schema_exists.sql"), &[]).await?;
    if !exists.get::<_, bool>(0) {
        return Ok(BTreeMap::new());
    }
    let rows = client.query("SELECT number, name, digest FROM dbagent.migrations", &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect())
}

fn require_known(recorded: &BTreeMap<i32, (String, String)>) -> Result<(), PostgresError> {
    for (number, (name, digest)) in recorded {
        let refuse = |why: String, hint: &str| {
            let message = format!("use what is installed in schema dbagent: {why}");
            Err(PostgresError::new(PostgresErrorKind::Other, message).hint(hint))
        };
        match MIGRATIONS.iter().find(|migration| migration.number == *number) {
            None => {
                return refuse(
                    format!("{name} is newer than this version of dbagent"),
                    "Use the dbagent that installed it, or a later one.",
                );
            }
            Some(known) if known.digest().to_string() != *digest => {
                return refuse(
                    format!("{name} was applied with another text than this version has"),
                    "Released files are never changed: use an unmodified dbagent, or look at who changed the record.",
                );
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_as_their_files_and_in_order() {
        for migration in MIGRATIONS {
            assert!(migration.name.starts_with(&format!("{:03}_", migration.number)), "{}", migration.name);
        }
        assert!(MIGRATIONS.windows(2).all(|pair| pair[0].number < pair[1].number));
    }

    #[test]
    fn a_record_that_is_newer_or_other_than_ours_is_refused() {
        let record = |number, digest: String| BTreeMap::from([(number, ("some".to_owned(), digest))]);
        let own = MIGRATIONS[0].digest().to_string();
        assert!(require_known(&record(1, own.clone())).is_ok());
        assert!(require_known(&record(1, "0".repeat(64))).unwrap_err().message.contains("another text"));
        assert!(require_known(&record(9999, own)).unwrap_err().message.contains("newer"));
    }
}
