//! The demo data: the same rows everywhere, in the numbers asked for, consistent, and compressible like a real log.

use std::io::Write;

use chrono::NaiveDate;
use dbagent::steps::bc003::{self, Scale, TABLES};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::TryStreamExt;
use tokio_postgres::Client;

use crate::bc003_server::{Database, installed, start, text};

fn november() -> NaiveDate {
    NaiveDate::from_ymd_opt(2025, 11, 1).unwrap()
}

/// One digest over every row of every table.
async fn sum(client: &Client) -> String {
    client.batch_execute("SET timezone = 'UTC'; SET datestyle = 'ISO'; SET bytea_output = 'hex'").await.unwrap();
    let mut sums = String::new();
    for table in TABLES {
        let rows = format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text COLLATE \"C\")) FROM {table} t");
        sums.push_str(&text(client, &rows).await);
    }
    text(client, &format!("SELECT md5('{sums}')")).await
}

#[tokio::test]
async fn equal_scales_give_equal_rows_in_every_database_and_for_ever() {
    let server = start();
    let scale = Scale { first_month: november(), months: 3, users: 20, audit_rows_per_month: 200 };
    let mut sums = Vec::new();
    for (database, time_zone) in [("one", "Asia/Kolkata"), ("two", "America/New_York")] {
        let session = installed(&server, database).await;
        let client = session.client();
        client.batch_execute(&format!("SET timezone = '{time_zone}'; SET datestyle = 'SQL, DMY'")).await.unwrap();
        bc003::generate(client, scale).await.unwrap();
        let generated = sum(client).await;
        bc003::change_one_per_cent(client, 1, november()).await.unwrap();
        sums.push((generated, sum(client).await));
    }
    assert_eq!(sums[0], sums[1]);
    // The same on PostgreSQL 15, 16 and 18; another sum means that benchmarks of other days are no longer comparable.
    assert_eq!(
        (sums[0].0.as_str(), sums[0].1.as_str()),
        ("13b61460ddbaa6331439734ae82ce379", "8a41a8a9505950c571c47e7bf8808154")
    );
}

#[tokio::test]
async fn the_demo_has_the_rows_asked_for_and_they_fit_together() {
    let database = Database::new().await;
    bc003::generate(&database, Scale::demo(november())).await.unwrap();
    let counts = [
        ("users", "2000"),
        ("roles", "12"),
        ("permissions", "156"),
        ("user_roles", "2667"),
        ("sessions", "1800"),
        ("password_history", "6000"),
        ("audit_logs", "48000"),
        ("audit_logs_2025_12", "12000"),
        ("audit_logs_default", "0"),
        ("security_events", "3000"),
        ("security_events_default", "0"),
        ("security_policies", "4"),
        ("login_attempts", "4800"),
        ("login_attempts_default", "0"),
    ];
    for (table, rows) in counts {
        assert_eq!(database.text(&format!("SELECT count(*) FROM {table}")).await, rows, "{table}");
    }
    assert_eq!(database.text("SELECT to_regnamespace('bc003_generator')").await, "NULL");

    // Foreign keys were not checked while filling.
    for (child, column, parent) in [
        ("sessions", "user_id", "users"),
        ("password_history", "user_id", "users"),
        ("user_roles", "user_id", "users"),
        ("user_roles", "role_id", "roles"),
        ("role_permissions", "permission_id", "permissions"),
        ("audit_logs", "user_id", "users"),
        ("audit_logs", "session_id", "sessions"),
        ("security_events", "user_id", "users"),
    ] {
        let orphans =
            format!("SELECT count(*) FROM {child} c WHERE NOT EXISTS (SELECT FROM {parent} p WHERE p.id = c.{column})");
        assert_eq!(database.text(&orphans).await, "0", "{child}.{column}");
    }
    let unlinked = "SELECT count(*) FROM (SELECT previous_hash, lag(hash) OVER (ORDER BY recorded_at) AS before FROM audit_logs) AS l
        WHERE previous_hash IS DISTINCT FROM before";
    assert_eq!(database.text(unlinked).await, "0");
    let order =
        "SELECT min(correlation) > 0.99 FROM pg_stats WHERE tablename ~ '^audit_logs_2' AND attname = 'recorded_at'";
    assert_eq!(database.text(order).await, "true", "rows lie in order of time");
}

#[tokio::test]
async fn audit_rows_are_as_large_and_as_compressible_as_a_real_log() {
    let database = Database::new().await;
    bc003::generate(&database, Scale { months: 1, ..Scale::demo(november()) }).await.unwrap();
    let rows = database.copy_out("COPY (SELECT * FROM audit_logs) TO STDOUT").await.unwrap();
    let plain: Vec<u8> = rows
        .try_fold(Vec::new(), |mut all, part| async move {
            all.extend_from_slice(&part);
            Ok(all)
        })
        .await
        .unwrap();
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(6));
    encoder.write_all(&plain).unwrap();
    let ratio = plain.len() as f64 / encoder.finish().unwrap().len() as f64;
    assert!((2.6..3.0).contains(&ratio), "gzip makes it {ratio} times smaller");
    assert!((650..730).contains(&(plain.len() / 12_000)), "{} bytes a row", plain.len() / 12_000);
}

#[tokio::test]
async fn a_change_touches_one_row_in_a_hundred_and_leaves_closed_months_alone() {
    let database = Database::new().await;
    bc003::generate(&database, Scale { months: 2, ..Scale::demo(november()) }).await.unwrap();
    bc003::change_one_per_cent(&database, 7, NaiveDate::from_ymd_opt(2025, 12, 1).unwrap()).await.unwrap();
    let changed = |month: &str| format!("SELECT count(*) FROM audit_logs_2025_{month} WHERE details ? 'round'");
    assert_eq!(database.text(&changed("11")).await, "0");
    let december: u32 = database.text(&changed("12")).await.parse().unwrap();
    assert!((90..150).contains(&december), "{december} of 12,000 changed");
    assert_eq!(database.text("SELECT to_regnamespace('bc003_generator')").await, "NULL");
}
