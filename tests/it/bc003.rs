//! The BC-003 schema does what its files say: tables, partitions, privileges, row-level security, triggers.

use dbagent::postgres::find_tool;
use dbagent::steps::bc003::{self, TABLES};

use crate::bc003_server::{Database, installed, start, text};

const ADA: &str = "11111111-1111-4111-a111-111111111111";
const BOB: &str = "22222222-2222-4222-a222-222222222222";
const BCRYPT: &str = "$2b$12$abcdefghijklmnopqrstuuabcdefghijklmnopqrstuvwxyz01234";
const OTHER_BCRYPT: &str = "$2b$12$ABCDEFGHIJKLMNOPQRSTUUabcdefghijklmnopqrstuvwxyz01234";

/// A database in which Ada and Bob have an account.
async fn with_users() -> Database {
    let database = Database::new().await;
    for (id, name) in [(ADA, "ada"), (BOB, "bob")] {
        let insert = "INSERT INTO users (id, email, password_hash) VALUES";
        database.run(&format!("{insert} ('{id}', '{name}@example.com', '{BCRYPT}')")).await;
    }
    database
}

/// An audit row of now, with `values` for the columns named.
fn audit_row(columns: &str, values: &str) -> String {
    let hash = "a".repeat(64);
    format!("INSERT INTO audit_logs (hash, {columns}) VALUES ('{hash}', {values})")
}

fn session_of(user: &str, token: char) -> String {
    let token = token.to_string().repeat(64);
    format!("INSERT INTO sessions (user_id, token_hash) VALUES ('{user}', '{token}')")
}

fn login(email: &str, reason: Option<&str>) -> String {
    let reason_or_null = reason.map_or("NULL".to_owned(), |reason| format!("'{reason}'"));
    let success = reason.is_none();
    format!(
        "INSERT INTO login_attempts (email, success, failure_reason) VALUES ('{email}', {success}, {reason_or_null})"
    )
}

#[tokio::test]
async fn the_files_make_every_table_of_the_plan_and_explain_it() {
    let database = Database::new().await;
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition";
    let mut expected = TABLES;
    expected.sort_unstable();
    assert_eq!(database.text(tables).await, expected.join(" "));

    let unexplained = "SELECT count(*) FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0
        WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition AND NOT attisdropped
        AND (col_description(c.oid, attnum) IS NULL OR obj_description(c.oid) IS NULL)";
    assert_eq!(database.text(unexplained).await, "0");

    let keyless =
        "SELECT count(*) FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
        AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND indisprimary)";
    assert_eq!(database.text(keyless).await, "0");
}

#[tokio::test]
async fn the_audit_log_has_exactly_the_columns_of_its_hash_profile() {
    let database = Database::new().await;
    let columns = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || CASE WHEN attnotnull THEN '!' ELSE '' END,
        ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'audit_logs'::regclass AND attnum > 0";
    assert_eq!(
        database.text(columns).await.replace("character varying", "varchar").replace(" without time zone", ""),
        "id uuid!, user_id uuid, session_id uuid, action varchar(100), resource varchar(200), resource_id varchar(100), \
         details jsonb, ip_address varchar(45), user_agent varchar(500), success boolean, error_code varchar(50), \
         error_message text, hash varchar(64)!, previous_hash varchar(64), recorded_at timestamp!"
    );
}

#[tokio::test]
async fn a_second_installation_is_refused_and_changes_nothing() {
    let database = Database::new().await;
    database.run("DROP TABLE login_attempts").await;
    assert!(bc003::install(&database).await.is_err());
    assert_eq!(database.text("SELECT to_regclass('login_attempts')").await, "NULL");
    bc003::install_roles(&database).await.expect_err("a table that is granted on is missing");
}

#[tokio::test]
async fn rows_go_to_the_partition_of_their_month_in_utc_whatever_the_time_zone() {
    let database = Database::new().await;
    database.run("SET timezone = 'Pacific/Kiritimati'").await;
    let partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = ANY
        ('{audit_logs,security_events,login_attempts}'::regclass[])";
    assert_eq!(database.text(partitions).await, "18");

    let month = "to_char(timezone('UTC', now()) + interval '2 months', 'YYYY_MM')";
    let start = "date_trunc('month', timezone('UTC', now())) + interval '2 months'";
    let inserts = [
        ("audit_logs", audit_row("recorded_at", start)),
        (
            "security_events",
            format!(
                "INSERT INTO security_events (event_type, severity, detected_at)
                 VALUES ('test', 'low', ({start}) AT TIME ZONE 'UTC')"
            ),
        ),
        (
            "login_attempts",
            format!(
                "INSERT INTO login_attempts (email, success, attempted_at)
                 VALUES ('x@example.com', true, ({start}) AT TIME ZONE 'UTC')"
            ),
        ),
    ];
    for (table, insert) in inserts {
        database.run(&insert).await;
        let right = format!("SELECT tableoid::regclass::text = '{table}_' || {month} FROM {table}");
        assert_eq!(database.text(&right).await, "true", "{table}");
    }
    database.run(&audit_row("recorded_at", "'2001-01-01'")).await;
    assert_eq!(database.text("SELECT count(*) FROM audit_logs_default").await, "1");
}

#[tokio::test]
async fn f98_the_application_adds_and_reads_audit_rows_and_nothing_else() {
    let database = Database::new().await;
    database.run("SET ROLE bc003_app").await;
    database.run(&audit_row("action", "'user.view'")).await;
    assert_eq!(database.text("SELECT count(*) FROM audit_logs").await, "1");

    let partition = format!("audit_logs_{}", database.text("SELECT to_char(timezone('UTC', now()), 'YYYY_MM')").await);
    let insert = audit_row("action", "'user.view'");
    for statement in [
        "UPDATE audit_logs SET action = 'x'".to_owned(),
        "UPDATE audit_logs SET action = 'x' RETURNING id".to_owned(),
        "DELETE FROM audit_logs".to_owned(),
        "DELETE FROM audit_logs RETURNING id".to_owned(),
        "TRUNCATE audit_logs".to_owned(),
        "SELECT FROM audit_logs FOR UPDATE".to_owned(),
        insert.replace("audit_logs", &partition),
        insert.replace("audit_logs", "audit_logs_default"),
        format!("SELECT FROM {partition}"),
        format!("UPDATE {partition} SET action = 'x'"),
        format!("DELETE FROM {partition}"),
        format!("TRUNCATE {partition}"),
        format!("ALTER TABLE audit_logs DETACH PARTITION {partition}"),
        "ALTER TABLE audit_logs DISABLE TRIGGER ALL".to_owned(),
        "DROP TABLE audit_logs".to_owned(),
        "SET session_replication_role = replica".to_owned(),
        "CREATE TABLE public.mine (x int)".to_owned(),
        "DELETE FROM login_attempts".to_owned(),
        "UPDATE security_events SET severity = 'low'".to_owned(),
        "DELETE FROM password_history".to_owned(),
        "TRUNCATE users".to_owned(),
    ] {
        assert_eq!(database.refusal(&statement).await, "42501", "{statement}");
    }
}

#[tokio::test]
async fn the_application_works_with_the_other_tables() {
    let database = Database::new().await;
    database
        .run(&format!(
            "SET ROLE bc003_app; INSERT INTO users (id, email, password_hash) VALUES ('{ADA}', 'ada@example.com', '{BCRYPT}');
             SET bc003.user_id = '{ADA}'; {}; {};
             UPDATE users SET password_hash = '{OTHER_BCRYPT}'; UPDATE security_policies SET enabled = false;
             DELETE FROM user_roles; DELETE FROM users",
            session_of(ADA, 'a'),
            login("ada@example.com", Some("bad_password")),
        ))
        .await;
}

#[tokio::test]
async fn the_application_sees_only_the_sessions_and_passwords_of_the_user_it_acts_for() {
    let database = with_users().await;
    database.run(&[session_of(ADA, 'a'), session_of(ADA, 'b'), session_of(BOB, 'c')].join(";")).await;
    database.run(&format!("UPDATE users SET password_hash = '{OTHER_BCRYPT}'; SET ROLE bc003_app")).await;
    let counts = "SELECT (SELECT count(*) FROM sessions) || ' ' || (SELECT count(*) FROM password_history)";
    assert_eq!(database.text(counts).await, "0 0");

    database.run(&format!("SET bc003.user_id = '{ADA}'")).await;
    assert_eq!(database.text(counts).await, "2 1");
    assert_eq!(database.refusal(&session_of(BOB, 'd')).await, "42501");

    database.run(&format!("SET bc003.user_id = ''; SET bc003.session_token_hash = '{}'", "c".repeat(64))).await;
    assert_eq!(database.text("SELECT string_agg(user_id::text, ' ') FROM sessions").await, BOB);
}

#[tokio::test]
async fn f86_a_dump_needs_bypassrls_and_dbagent_dump_has_it() {
    let database = with_users().await;
    database
        .run(
            "CREATE ROLE reader LOGIN IN ROLE pg_read_all_data; CREATE ROLE agent LOGIN NOINHERIT IN ROLE dbagent_dump",
        )
        .await;
    let dump = |user: &str, role: &[&str]| {
        let mut command = std::process::Command::new(find_tool(None, "pg_dump").unwrap());
        command.env("PGHOST", database.server.directory()).env("PGPORT", database.server.port().to_string());
        command.args(["-U", user, "-d", "consulting_tool", "-Fc", "-Z0"]).args(role).output().unwrap()
    };
    let refused = dump("reader", &[]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("row-level security"), "{refused:?}");
    let taken = dump("agent", &["--role", "dbagent_dump"]);
    assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
}

#[tokio::test]
async fn roles_are_made_once_for_several_databases_of_a_cluster() {
    let server = start();
    drop(installed(&server, "one").await);
    let two = installed(&server, "two").await;
    bc003::install_roles(two.client()).await.unwrap();
    let cannot_log_in = "SELECT count(*) FROM pg_roles WHERE rolname IN ('bc003_app', 'dbagent_dump', 'dbagent_mon')
        AND NOT rolcanlogin AND NOT rolsuper";
    assert_eq!(text(two.client(), cannot_log_in).await, "3");
}

#[tokio::test]
async fn a_changed_row_says_when_it_changed_and_an_unchanged_one_does_not() {
    let database = with_users().await;
    let before = database.text("SELECT max(updated_at) FROM users").await;
    database.run("UPDATE users SET first_name = NULL").await;
    assert_eq!(database.text("SELECT max(updated_at) FROM users").await, before);
    database.run("UPDATE users SET first_name = 'Ada' WHERE email = 'ada@example.com'").await;
    assert_eq!(database.text(&format!("SELECT count(*) FROM users WHERE updated_at > '{before}'")).await, "1");
}

#[tokio::test]
async fn login_names_are_kept_trimmed_and_in_lower_case() {
    let database = with_users().await;
    database.run(&format!("UPDATE users SET email = ' Ada.L@Example.COM ' WHERE id = '{ADA}'")).await;
    assert_eq!(database.text(&format!("SELECT email FROM users WHERE id = '{ADA}'")).await, "ada.l@example.com");
    database.run(&login("BOB@example.com", None)).await;
    assert_eq!(database.text("SELECT email FROM login_attempts").await, "bob@example.com");
}

#[tokio::test]
async fn a_replaced_password_is_remembered() {
    let database = with_users().await;
    let changed_at = database.text(&format!("SELECT password_changed_at FROM users WHERE id = '{ADA}'")).await;
    database.run(&format!("UPDATE users SET password_hash = '{OTHER_BCRYPT}' WHERE id = '{ADA}'")).await;
    database.run("UPDATE users SET password_hash = password_hash").await;
    let history = "SELECT string_agg(user_id || ' ' || password_hash || ' ' || set_at, ',') FROM password_history";
    assert_eq!(database.text(history).await, format!("{ADA} {BCRYPT} {changed_at}"));
    let moved = format!("SELECT password_changed_at > '{changed_at}' FROM users WHERE id = '{ADA}'");
    assert_eq!(database.text(&moved).await, "true");
}

#[tokio::test]
async fn a_new_user_is_a_viewer() {
    let database = with_users().await;
    let roles = "SELECT string_agg(name, ' ') FROM user_roles JOIN roles ON id = role_id";
    assert_eq!(database.text(roles).await, "viewer viewer");
    database.run("DELETE FROM user_roles; DELETE FROM role_permissions; DELETE FROM roles").await;
    let insert = format!("INSERT INTO users (email, password_hash) VALUES ('eve@example.com', '{BCRYPT}')");
    assert_eq!(database.refusal(&insert).await, "P0001");
}

#[tokio::test]
async fn failed_logins_in_a_row_lock_the_account() {
    let database = with_users().await;
    let ada = format!("SELECT status || ' ' || failed_login_attempts FROM users WHERE id = '{ADA}'");
    let fail = login("ada@example.com", Some("bad_password"));
    for _ in 0..4 {
        database.run(&fail).await;
    }
    assert_eq!(database.text(&ada).await, "active 4");
    database.run(&login("Ada@example.com", None)).await;
    assert_eq!(database.text(&ada).await, "active 0");
    for _ in 0..5 {
        database.run(&fail).await;
    }
    assert_eq!(database.text(&ada).await, "locked 5");
    let until = format!("SELECT locked_until > now() + interval '29 minutes' FROM users WHERE id = '{ADA}'");
    assert_eq!(database.text(&until).await, "true");

    database.run("UPDATE security_policies SET enabled = false WHERE name = 'account_lockout'").await;
    for _ in 0..6 {
        database.run(&login("bob@example.com", Some("bad_password"))).await;
    }
    assert_eq!(database.text(&format!("SELECT status FROM users WHERE id = '{BOB}'")).await, "active");
}

#[tokio::test]
async fn locking_and_unlocking_are_security_events() {
    let database = with_users().await;
    database.run(&format!("UPDATE users SET status = 'locked' WHERE id = '{ADA}'")).await;
    database.run(&format!("UPDATE users SET status = 'active' WHERE id = '{ADA}'")).await;
    database.run(&format!("UPDATE users SET status = 'disabled' WHERE id = '{BOB}'")).await;
    let events = format!(
        "SELECT string_agg(event_type || ' ' || severity, ', ' ORDER BY event_type) FROM security_events WHERE user_id = '{ADA}'"
    );
    assert_eq!(database.text(&events).await, "account_locked high, account_unlocked low");
    assert_eq!(database.text("SELECT count(*) FROM security_events").await, "2");
}

#[tokio::test]
async fn a_locked_account_and_a_new_password_end_the_open_sessions() {
    let database = with_users().await;
    database.run(&[session_of(ADA, 'a'), session_of(BOB, 'b')].join(";")).await;
    database.run(&format!("UPDATE users SET password_hash = '{OTHER_BCRYPT}' WHERE id = '{ADA}'")).await;
    let ended = "SELECT string_agg(user_id || ' ' || revoke_reason, ', ' ORDER BY user_id) FROM sessions WHERE revoked_at IS NOT NULL";
    assert_eq!(database.text(ended).await, format!("{ADA} password_changed"));
    database.run("UPDATE users SET status = 'locked'").await;
    assert_eq!(database.text(ended).await, format!("{ADA} password_changed, {BOB} account_locked"));
}

#[tokio::test]
async fn the_audit_log_is_append_only_for_its_owner_too() {
    let database = Database::new().await;
    database.run(&audit_row("action", "'user.view'")).await;
    for statement in [
        "UPDATE audit_logs SET action = 'x'",
        "DELETE FROM audit_logs",
        "TRUNCATE audit_logs",
        "DELETE FROM ONLY audit_logs_default",
    ] {
        if statement.contains("ONLY") {
            database.run(&audit_row("recorded_at", "'2001-01-01'")).await;
        }
        assert_eq!(database.refusal(statement).await, "23001", "{statement}");
    }
    database
        .run(
            "BEGIN; ALTER TABLE audit_logs_default DISABLE TRIGGER audit_logs_protect_rows; DELETE FROM audit_logs_default;
             ALTER TABLE audit_logs_default ENABLE TRIGGER audit_logs_protect_rows; COMMIT",
        )
        .await;
    assert_eq!(database.text("SELECT count(*) FROM audit_logs").await, "1");
}
