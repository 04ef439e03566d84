//! The chain as the database makes it: same bytes everywhere, no forks and no holes whatever sessions do, closed to the
//! application.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dbagent::app::install::SqlInstaller;
use dbagent::model::audit::profile::Profiles;
use dbagent::model::partition::Rule;
#[cfg(feature = "long")]
use dbagent::ops::audit_verify::Scope;
use dbagent::ops::partition::TableRule;
use dbagent::ops::{audit_backfill, audit_install};
use dbagent::postgres::audit::{schema, vectors};
use dbagent::postgres::{Session, copy};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

#[cfg(feature = "long")]
use crate::audit_stage::Watched;
use crate::audit_stage::{Chained, INTEGRITY, insert, setting};
use crate::bc003_server::Database;

#[tokio::test(flavor = "multi_thread")]
async fn f104_f105_the_golden_rows_have_their_bytes_under_every_setting() {
    let chained = Chained::new().await;
    let session = copy::connect(&chained.connection(), "UTF8").await.unwrap();
    for settings in [
        "SET timezone = 'UTC'",
        "SET timezone = 'Pacific/Kiritimati'; SET datestyle = 'SQL, DMY'; SET intervalstyle = 'sql_standard'",
        "SET timezone = 'America/St_Johns'; SET datestyle = 'German'; SET bytea_output = 'escape'; SET extra_float_digits = 0",
        "SET timezone = 'Asia/Kathmandu'; SET quote_all_identifiers = on; SET standard_conforming_strings = on; SET jit = off",
    ] {
        session.batch(settings).await.unwrap();
        vectors::check_copy(&session).await.unwrap();
        vectors::check_functions(&session).await.unwrap();
    }
    // What goes to the client in another encoding is still hashed in UTF-8.
    session.batch("SET client_encoding = 'LATIN1'").await.unwrap();
    let hash = "SELECT audit.row_hash(NULL, NULL, NULL, E'gr\\u00f6\\u00dfe', NULL, NULL, '{\"\\u00e9\": 1}', NULL, NULL, NULL, NULL, NULL, NULL, NULL)";
    let latin: String = session.client().query_one(hash, &[]).await.unwrap().get(0);
    session.batch("SET client_encoding = 'UTF8'").await.unwrap();
    let utf: String = session.client().query_one(hash, &[]).await.unwrap().get(0);
    assert_eq!(latin, utf);
}

#[tokio::test]
async fn f105_no_time_zone_changes_a_hash() {
    let chained = Chained::new().await;
    chained
        .run(
            "CREATE FUNCTION pg_temp.hashes() RETURNS bigint LANGUAGE plpgsql AS $$
             DECLARE zone text; hash text; first text; zones bigint := 0;
             BEGIN
                 FOR zone IN SELECT name FROM pg_timezone_names LOOP
                     PERFORM set_config('timezone', zone, true);
                     hash := audit.row_hash('11111111-1111-4111-8111-111111111111', NULL, NULL, 'x', NULL, NULL, '{\"a\": 1.0}',
                         NULL, NULL, true, NULL, NULL, '2026-03-29 02:30:00.000001', NULL);
                     first := coalesce(first, hash);
                     IF hash <> first THEN RAISE EXCEPTION 'zone %', zone; END IF;
                     zones := zones + 1;
                 END LOOP;
                 RETURN zones;
             END $$",
        )
        .await;
    let zones: u32 = chained.text("SELECT pg_temp.hashes()").await.parse().unwrap();
    assert!(zones >= 500, "{zones} zones");
}

#[tokio::test]
async fn every_query_of_the_chain_has_a_header_and_is_taken() {
    let chained = Chained::new().await;
    let mut seen = 0;
    let folder = |name: &str| fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(name)).unwrap();
    for entry in folder("audit").chain(folder("alert")) {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let header: String = text.lines().take_while(|line| line.starts_with("--")).collect();
        for word in ["privilege", "versions", "parameters"] {
            assert!(header.to_lowercase().contains(word), "{}: no {word}", path.display());
        }
        if path.file_stem().is_some_and(|name| name != "enable_trigger" && name != "undo_protection") {
            chained.prepare(&text).await.unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} query files");
}

#[tokio::test]
async fn installing_twice_changes_nothing_and_a_log_with_rows_is_not_chained_behind_them() {
    let chained = Chained::new().await;
    chained.add(3).await;
    let again = audit_install::run(&chained.connection(), &setting()).await.unwrap();
    assert_eq!((again.migrations.len(), again.chained, again.enabled_now), (0, true, false));
    chained.add(2).await;
    assert_eq!(chained.integrity().await, "whole");

    let database = Database::new().await;
    let hash = "a".repeat(64);
    database.run(&format!("INSERT INTO audit_logs (hash) VALUES ('{hash}')")).await;
    let connection = database.server.connection().unwrap().with_database("consulting_tool");
    let installed = audit_install::run(&connection, &setting()).await.unwrap();
    assert!(!installed.chained && !installed.migrations.is_empty());
    assert_eq!(database.text("SELECT count(*) FROM pg_trigger WHERE tgname = 'zz_audit_chain'").await, "0");
}

#[tokio::test]
async fn a_new_partition_has_the_trigger_as_the_parent_has_it() {
    let chained = Chained::new().await;
    chained
        .run(
            "CREATE TABLE audit_logs_2099_01 (LIKE audit_logs INCLUDING ALL);
             ALTER TABLE audit_logs ATTACH PARTITION audit_logs_2099_01 FOR VALUES FROM ('2099-01-01') TO ('2099-02-01');
             CREATE TABLE audit_logs_2099_02 PARTITION OF audit_logs FOR VALUES FROM ('2099-02-01') TO ('2099-03-01')",
        )
        .await;
    let drift = schema::drift(&chained.session().await).await.unwrap();
    assert!(drift.is_empty(), "{drift:?}");
    let partition = chained.text("SELECT 'public.audit_logs_' || to_char(timezone('UTC', now()), 'YYYY_MM')").await;
    chained.run(&insert(2).replace("public.audit_logs", &partition)).await;
    assert_eq!(chained.integrity().await, "whole", "a row inserted into the partition itself is chained too");
}

#[tokio::test]
async fn f98_the_application_adds_rows_and_cannot_touch_what_chains_them() {
    let chained = Chained::new().await;
    let application = chained.application().await;
    application.batch(&insert(2)).await.unwrap();
    let forged =
        "INSERT INTO public.audit_logs (action, hash, previous_hash) VALUES ('x', repeat('a', 64), repeat('b', 64))";
    application.batch(forged).await.unwrap();
    assert_eq!(chained.integrity().await, "whole", "what the application says of hashes does not count");
    for statement in [
        "SELECT FROM audit.chain_head",
        "SELECT FROM audit.chain_seq",
        "UPDATE audit.chain_head SET seq = 0",
        "DELETE FROM audit.chain_seq",
        "SELECT audit.row_hash(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)",
        "SELECT public.alert_audit_log_tampering(gen_random_uuid())",
        "SET session_replication_role = replica",
        "ALTER TABLE public.audit_logs DISABLE TRIGGER zz_audit_chain",
        "DROP TRIGGER zz_audit_chain ON public.audit_logs",
        "SET ROLE audit_owner",
    ] {
        let refused = application.batch(statement).await;
        // A superuser logged in, so that SET ROLE alone is judged by the login.
        assert!(refused.is_err() || statement.starts_with("SET "), "{statement} was taken");
        application.batch("SET ROLE bc003_app").await.unwrap();
    }
    for time in ["now() - interval '2 hours'", "now() + interval '1 minute'", "'infinity'", "'-infinity'"] {
        let insert =
            format!("INSERT INTO public.audit_logs (recorded_at) VALUES (timezone('UTC', ({time})::timestamptz))");
        assert_eq!(chained.refusal(&insert).await, "23514", "{time}");
    }
    assert_eq!(chained.text("SELECT count(*) FROM audit_logs").await, "3");
}

#[tokio::test]
async fn f100_a_key_that_is_there_is_refused_and_the_head_stays() {
    let chained = Chained::new().await;
    chained.add(2).await;
    for how in ["", "ON CONFLICT DO NOTHING", "ON CONFLICT (id, recorded_at) DO NOTHING"] {
        let again =
            format!("INSERT INTO audit_logs (id, recorded_at) SELECT id, recorded_at FROM audit_logs LIMIT 1 {how}");
        assert_eq!(chained.refusal(&again).await, "23505", "{how}");
        assert_eq!(chained.integrity().await, "whole", "{how}");
    }
    let twice =
        "INSERT INTO audit_logs (id, recorded_at) SELECT '11111111-1111-4111-8111-111111111111', timezone('UTC', now())
        FROM generate_series(1, 2) ON CONFLICT DO NOTHING";
    assert_eq!(chained.refusal(twice).await, "23505");
    chained.add(1).await;
    assert_eq!(chained.integrity().await, "whole");
    assert_eq!(chained.text("SELECT seq FROM audit.chain_head").await, "3");
}

#[tokio::test]
async fn f101_what_is_rolled_back_leaves_no_hole() {
    let chained = Chained::new().await;
    let one = insert(1);
    let transactions = [
        format!("BEGIN; {one}; ROLLBACK"),
        format!("BEGIN; {one}; SAVEPOINT a; {one}; {one}; ROLLBACK TO a; {one}; COMMIT"),
        format!("BEGIN; SAVEPOINT a; {one}; RELEASE a; {one}; COMMIT"),
        format!("BEGIN; SAVEPOINT a; {one}; ROLLBACK TO a; {one}; {one}; {one}; COMMIT"),
        format!("BEGIN; {one}; {one}; SAVEPOINT a; {one}; SAVEPOINT b; {one}; ROLLBACK TO a; {one}; COMMIT"),
        format!("BEGIN; SET CONSTRAINTS ALL IMMEDIATE; {one}; {one}; {}; {one}; COMMIT", insert(3)),
        format!(
            "BEGIN; {one}; {one}; SET CONSTRAINTS ALL IMMEDIATE; {one}; SET CONSTRAINTS ALL DEFERRED; {one}; {one}; COMMIT"
        ),
        format!("BEGIN ISOLATION LEVEL SERIALIZABLE; {}; {one}; COMMIT", insert(5)),
        format!(
            "DO $$ BEGIN {one}; BEGIN {one}; RAISE EXCEPTION 'x'; EXCEPTION WHEN raise_exception THEN NULL; END; {one}; END $$"
        ),
    ];
    for transaction in &transactions {
        chained.run(transaction).await;
        assert_eq!(chained.integrity().await, "whole", "{transaction}");
    }
    let failing = format!("BEGIN; {one}; SELECT 1 / 0; COMMIT");
    assert_eq!(chained.refusal(&failing).await, "22012");
    chained.run("ROLLBACK").await;
    assert_eq!(chained.integrity().await, "whole");
}

#[tokio::test]
async fn who_sits_on_the_head_holds_others_up_for_five_seconds_and_no_longer() {
    let chained = Chained::new().await;
    let idle = chained.session().await;
    idle.batch(&format!("BEGIN; {}", insert(1))).await.unwrap();
    let begun = std::time::Instant::now();
    assert_eq!(chained.refusal(&insert(1)).await, "55P03");
    let waited = begun.elapsed();
    assert!((Duration::from_millis(4900)..Duration::from_secs(30)).contains(&waited), "{waited:?}");
    idle.batch("COMMIT").await.unwrap();
    chained.add(1).await;
    assert_eq!(
        (chained.integrity().await.as_str(), chained.text("SELECT seq FROM audit.chain_head").await.as_str()),
        ("whole", "2")
    );
}

#[tokio::test]
async fn many_rows_of_one_transaction_are_not_slower_than_few() {
    let chained = Chained::new().await;
    let took = async |rows| {
        let begun = std::time::Instant::now();
        chained.add(rows).await;
        begun.elapsed().as_secs_f64() / f64::from(rows)
    };
    took(500).await;
    let (few, many) = (took(1000).await, took(20_000).await);
    assert!(many < few * 4.0, "{few} s a row at first, {many} s a row in a bulk load");
    assert_eq!(chained.integrity().await, "whole");
}

/// What writers did.
#[derive(Default)]
struct Counts {
    committed: AtomicU64,
    serialization: AtomicU64,
    killed: AtomicU64,
    rolled_back: AtomicU64,
}

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// Most rows of one statement, so that a million are not mostly commits.
fn most_rows(goal: u64) -> u32 {
    if goal > 100_000 { 60 } else { 4 }
}

/// One session's work until `rows` of all sessions are committed: transactions of random length, savepoints, conflicts.
async fn write(chained: Arc<Chained>, seed: u64, level: &'static str, goal: u64, counts: Arc<Counts>) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut session = chained.session().await;
    while counts.committed.load(Ordering::Relaxed) < goal {
        let (script, rows) = transaction(&mut random, level, most_rows(goal));
        match session.batch(&script).await {
            Ok(()) if script.ends_with("ROLLBACK") => drop(counts.rolled_back.fetch_add(1, Ordering::Relaxed)),
            Ok(()) => drop(counts.committed.fetch_add(rows, Ordering::Relaxed)),
            // A killed session is known by not even rolling back.
            Err(_) if session.batch("ROLLBACK").await.is_err() => {
                counts.killed.fetch_add(1, Ordering::Relaxed);
                session = chained.session().await;
            }
            Err(_) => drop(counts.serialization.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// Of one to three statements, each of at most `most` rows.
fn transaction(random: &mut StdRng, level: &str, most: u32) -> (String, u64) {
    let mut script = format!("BEGIN ISOLATION LEVEL {level}; SELECT 1");
    let mut rows = 0;
    for _ in 0..random.random_range(1..4) {
        let count = random.random_range(1..=most);
        match random.random_range(0..10) {
            0 => script.push_str(&format!("; SAVEPOINT s; {}; ROLLBACK TO s", insert(count))),
            1 => {
                script.push_str(&format!("; SAVEPOINT s; {}; RELEASE s", insert(count)));
                rows += count;
            }
            2 => {
                script.push_str(&format!("; {} ON CONFLICT DO NOTHING", insert(count)));
                rows += count;
            }
            _ => {
                script.push_str(&format!("; {}", insert(count)));
                rows += count;
            }
        }
    }
    if random.random_range(0..10) == 0 {
        return (script + "; ROLLBACK", 0);
    }
    (script + "; COMMIT", u64::from(rows))
}

/// Ends a backend of the writers now and then.
async fn kill(session: Session, goal: u64, counts: Arc<Counts>) {
    let victim = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity
        WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND query LIKE '%INSERT INTO public.audit_logs%'
        ORDER BY random() LIMIT 1) v";
    let mut last = 0;
    while counts.committed.load(Ordering::Relaxed) < goal {
        let now = counts.committed.load(Ordering::Relaxed);
        if now >= last + goal / 20 {
            session.client().query_one(victim, &[]).await.unwrap();
            last = now;
        }
        tokio::task::yield_now().await;
        session.client().query_one("SELECT pg_sleep(0.002)", &[]).await.unwrap();
    }
}

/// Verifies and signs again and again while others write; whatever it says is a false alarm.
#[cfg(feature = "long")]
async fn watch(chained: Arc<Chained>, goal: u64, counts: Arc<Counts>) {
    let watched = Watched::new(chained);
    let (mut looks, mut rows) = (0, 0);
    while counts.committed.load(Ordering::Relaxed) < goal {
        let scope = if looks % 4 == 3 { Scope::Full } else { Scope::Incremental };
        let outcome = watched.verify(scope).await.unwrap();
        assert!(outcome.is_green(), "false alarm after {looks} looks: {outcome:?}");
        let outcome = watched.checkpoint(None).await.unwrap();
        assert!(outcome.is_green(), "false alarm after {looks} checkpoints: {outcome:?}");
        looks += 1;
        rows = counts.committed.load(Ordering::Relaxed);
    }
    assert_eq!(watched.findings().await, []);
    crate::audit_stage::figure(&format!(
        "{looks} verifications and as many checkpoints while {rows} rows came: no alarm"
    ));
    assert!(looks > 20, "only {looks} looks");
}

/// Months that come and go beside the writers.
#[cfg(feature = "long")]
async fn change_months(chained: Arc<Chained>, goal: u64, counts: Arc<Counts>) {
    let (session, mut changed) = (chained.session().await, 0);
    while counts.committed.load(Ordering::Relaxed) < goal {
        let make = "SET lock_timeout = '1s'; CREATE TABLE IF NOT EXISTS public.audit_logs_2098_01 PARTITION OF public.audit_logs
            FOR VALUES FROM ('2098-01-01') TO ('2098-02-01')";
        // Each by itself: statements of one message are one transaction, which would hold its locks over the pauses.
        let steps =
            [make, "SELECT pg_sleep(1)", "DROP TABLE IF EXISTS public.audit_logs_2098_01", "SELECT pg_sleep(1)"];
        let mut went = true;
        for step in steps {
            went &= session.batch(step).await.is_ok();
        }
        changed += i32::from(went);
    }
    crate::audit_stage::figure(&format!("{changed} times a month came and went"));
    assert!(changed > 0);
}

async fn storm(goal: u64) {
    let chained = Arc::new(Chained::new().await);
    let counts = Arc::new(Counts::default());
    let mut working = tokio::task::JoinSet::new();
    #[cfg(feature = "long")]
    if goal > 100_000 {
        working.spawn(watch(chained.clone(), goal, counts.clone()));
        working.spawn(change_months(chained.clone(), goal, counts.clone()));
    }
    for seed in 0..16 {
        let level = LEVELS[usize::try_from(seed).unwrap() % 3];
        working.spawn(write(chained.clone(), seed, level, goal, counts.clone()));
    }
    working.spawn(kill(chained.session().await, goal, counts.clone()));
    working.join_all().await;
    assert_eq!(chained.integrity().await, "whole");
    let rows: u64 = chained.text("SELECT count(*) FROM audit_logs").await.parse().unwrap();
    let committed = counts.committed.load(Ordering::Relaxed);
    let [serialization, killed, rolled_back] =
        [&counts.serialization, &counts.killed, &counts.rolled_back].map(|count| count.load(Ordering::Relaxed));
    crate::audit_stage::figure(&format!(
        "{rows} rows, {committed} acknowledged; {serialization} to be retried, {rolled_back} rolled back, {killed} sessions killed"
    ));
    // The answer to a COMMIT may be lost with its backend: then rows are there that were not counted.
    assert!(
        rows >= committed && rows <= committed + killed * 3 * u64::from(most_rows(goal)),
        "{rows} rows, {committed} acknowledged, {killed} killed"
    );
    assert!(
        serialization > 0 && killed > 0 && rolled_back > 0,
        "{serialization} {killed} {rolled_back}: a fault did not fire"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn f99_sixteen_sessions_at_three_levels_make_one_chain() {
    storm(1500).await;
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn f99_long_a_million_inserts_make_one_chain() {
    storm(1_000_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_with_rows_is_chained_while_the_application_writes_and_after_a_crash() {
    let database = Database::new().await;
    let hash = "a".repeat(64);
    let rows = |from: &str, count: u32| {
        format!(
            "INSERT INTO audit_logs (hash, action, details, recorded_at) SELECT '{hash}', 'x', jsonb_build_object('n', n),
             timezone('UTC', now()) {from} + n * interval '1 second' FROM generate_series(1, {count}) n"
        )
    };
    database.run(&rows("- interval '20 days'", 300)).await;
    let connection = database.server.connection().unwrap().with_database("consulting_tool");
    audit_install::run(&connection, &setting()).await.unwrap();
    // A run that died after two batches.
    for _ in 0..2 {
        database.query_one("SELECT audit.backfill(40, false)", &[]).await.unwrap();
    }
    // Committed late, behind the place where that was; and by an application that goes on.
    database.run(&rows("- interval '20 days' + interval '5 milliseconds'", 20)).await;
    database.run(&rows("- interval '5 minutes'", 30)).await;
    let done = audit_backfill::run(&connection, 50, &Profiles::default(), &setting()).await.unwrap();
    assert_eq!(done.rows, 300 - 80 + 20 + 30);
    database.run(&insert(5)).await;
    assert_eq!(database.text(&format!("({INTEGRITY})")).await, "whole");
    assert_eq!(database.text("SELECT seq FROM audit.chain_head").await, "355");
    let again = audit_backfill::run(&connection, 50, &Profiles::default(), &setting()).await.unwrap_err();
    assert!(again.full_message().contains("chained already"), "{}", again.full_message());
}

/// Partition maintenance and the chain, installed in either order: a month made afterwards is chained like the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_maintenance_makes_carries_the_trigger_whichever_was_installed_first() {
    let rule = Rule {
        key: "recorded_at".into(),
        retention: Some("36 months".parse().unwrap()),
        premake: 3,
        seal: true,
        archive: true,
        keep_detached: false,
    };
    let rule = TableRule { name: "audit_logs".parse().unwrap(), rule, lock_timeout: Duration::from_secs(2) };
    for chain_first in [true, false] {
        let database = Database::new().await;
        let connection = database.server.connection().unwrap().with_database("consulting_tool");
        let installer = SqlInstaller::new(connection.clone(), vec![rule.clone()]);
        if chain_first {
            audit_install::run(&connection, &setting()).await.unwrap();
            installer.install().await.unwrap();
        } else {
            installer.install().await.unwrap();
            audit_install::run(&connection, &setting()).await.unwrap();
        }
        let made = "SET ROLE dbagent_part;
            SELECT dbagent.make_partition('public', 'audit_logs', 'audit_logs_' || to_char(m, 'YYYY_MM'), m, (m + interval '1 month')::date)
            FROM (SELECT (date_trunc('month', now()) + interval '10 months')::date AS m) s;
            RESET ROLE";
        database.run(made).await;
        let state = "SELECT tgenabled::text || ' ' || relname FROM pg_trigger t JOIN pg_class c ON c.oid = tgrelid
            WHERE tgname = 'zz_audit_chain' AND relname = to_char(now() + interval '10 months', '\"audit_logs_\"YYYY_MM')";
        let state = database.text(&format!("({state})")).await;
        assert!(state.starts_with("A audit_logs_"), "{state:?} where the chain came first: {chain_first}");
    }
}
