//! The BC-003 database: its schema, its roles, and demo data of any size, applied over a connection.
//!
//! Owns nothing but the order of the files under `sql/`, which are compiled in; what they do is said in their heads.
//! Must not be pointed at a database that is in use: it makes tables and rows, and never replaces any. The surprising
//! thing: each call is one batch, so one transaction. It happens whole or not at all, also when the call is dropped.

use chrono::NaiveDate;
use tokio_postgres::Client;

/// The eleven tables, in the order in which foreign keys let them be filled.
pub const TABLES: [&str; 11] = [
    "users",
    "roles",
    "permissions",
    "user_roles",
    "role_permissions",
    "sessions",
    "password_history",
    "audit_logs",
    "security_events",
    "security_policies",
    "login_attempts",
];

const SCHEMA: [&str; 11] = [
    include_str!("../../sql/bc-003/001_create_users_and_auth.sql"),
    include_str!("../../sql/bc-003/002_create_roles_and_permissions.sql"),
    include_str!("../../sql/bc-003/003_create_user_roles_and_role_permissions.sql"),
    include_str!("../../sql/bc-003/004_create_sessions.sql"),
    include_str!("../../sql/bc-003/005_create_password_history.sql"),
    include_str!("../../sql/bc-003/006_create_audit_logs.sql"),
    include_str!("../../sql/bc-003/007_create_security_events.sql"),
    include_str!("../../sql/bc-003/008_create_security_policies.sql"),
    include_str!("../../sql/bc-003/009_create_login_attempts.sql"),
    include_str!("../../sql/bc-003/010_create_indexes.sql"),
    include_str!("../../sql/bc-003/011_create_triggers.sql"),
];

const ROLES: [&str; 3] = [
    include_str!("../../sql/roles/bc003_app.sql"),
    include_str!("../../sql/roles/dbagent_dump.sql"),
    include_str!("../../sql/roles/dbagent_mon.sql"),
];

const GENERATOR: [&str; 2] =
    [include_str!("../../sql/demo/vocabulary.sql"), include_str!("../../sql/demo/generate.sql")];
const CHANGE: &str = include_str!("../../sql/demo/change.sql");
const DROP_GENERATOR: &str = include_str!("../../sql/demo/drop.sql");

/// How much demo data, and of which months. Equal scales give equal rows on every server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Any day of the first month (UTC) that has rows.
    pub first_month: NaiveDate,
    /// Months of rows; at least 1.
    pub months: u32,
    /// Users; at least 1.
    pub users: u32,
    /// Audit rows a month, about 700 bytes each; sessions, events and attempts come in proportion. At least 1.
    pub audit_rows_per_month: u32,
}

impl Scale {
    /// A database of about 55 MB in a few seconds: four months.
    pub fn demo(first_month: NaiveDate) -> Self {
        Self { first_month, months: 4, users: 2_000, audit_rows_per_month: 12_000 }
    }

    /// The database of the benchmarks: twelve months and four million audit rows; its plain dump is 3 GB.
    pub fn bench(first_month: NaiveDate) -> Self {
        Self { first_month, months: 12, users: 20_000, audit_rows_per_month: 333_334 }
    }
}

/// What was being done to the BC-003 database when the server said no.
#[derive(Debug, thiserror::Error)]
#[error("{doing} the BC-003 database")]
pub struct Bc003Error {
    doing: &'static str,
    #[source]
    source: tokio_postgres::Error,
}

/// Makes the eleven tables with their keys, indexes and triggers in an empty database. Needs its owner.
pub async fn install(client: &Client) -> Result<(), Bc003Error> {
    apply(client, "install the schema of", &SCHEMA.concat()).await
}

/// Makes the group roles `bc003_app`, `dbagent_dump` and `dbagent_mon` where they are missing, and grants them what they
/// need in this database, which [`install`] has been over. Needs a superuser.
pub async fn install_roles(client: &Client) -> Result<(), Bc003Error> {
    apply(client, "install the roles of", &ROLES.concat()).await
}

/// Fills the tables that [`install`] made, and makes partitions where `scale` has months without. Needs a superuser.
pub async fn generate(client: &Client, scale: Scale) -> Result<(), Bc003Error> {
    apply(client, "fill", &generation(scale)).await
}

fn generation(scale: Scale) -> String {
    let Scale { first_month, months, users, audit_rows_per_month } = scale;
    let first_month = first_month.format("%Y-%m-01");
    let reference = format!("SELECT bc003_generator.fill_reference('{first_month}', {months}, {users});\n");
    let month = |month| {
        format!("SELECT bc003_generator.fill_month('{first_month}', {month}, {users}, {audit_rows_per_month});\n")
    };
    let months: String = (0..months).map(month).collect();
    [&GENERATOR.concat(), &reference, &months, DROP_GENERATOR, "ANALYZE;"].concat()
}

/// Changes one row in a hundred, always the same for the same `round`; among audit rows, events and attempts only those
/// of `since` (UTC) and later. Audit rows change too, which breaks their chain: for measuring only. Needs a superuser.
pub async fn change_one_per_cent(client: &Client, round: u32, since: NaiveDate) -> Result<(), Bc003Error> {
    let call = format!("SELECT bc003_generator.change_one_per_cent({round}, '{since}');");
    apply(client, "change rows of", &[CHANGE, call.as_str(), DROP_GENERATOR].concat()).await
}

async fn apply(client: &Client, doing: &'static str, batch: &str) -> Result<(), Bc003Error> {
    client.batch_execute(batch).await.map_err(|source| Bc003Error { doing, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_starts_at_the_first_of_the_month_and_calls_every_month() {
        let scale = Scale::demo(NaiveDate::from_ymd_opt(2025, 11, 23).unwrap());
        let batch = generation(scale);
        assert!(batch.contains("fill_reference('2025-11-01', 4, 2000);"));
        assert_eq!(batch.matches("SELECT bc003_generator.fill_month('2025-11-01', ").count(), 4);
    }
}
