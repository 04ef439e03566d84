//! The proof by random workload: whatever transactions do, every increment restores to exactly what was committed.
//!
//! Several sessions work at once: savepoints, rollbacks, prepared transactions, keys that move, TRUNCATE, partitions that
//! come, go and change names. At each hour some transactions are left open; then nothing commits while the increment is
//! made, killed once on its way, made again, and the source is read by SQL that has nothing to do with ours.

use std::collections::BTreeMap;

use dbagent::postgres::Session;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::cli::Desk;
use crate::increment::contents;

const TABLES: [&str; 6] = ["accounts", "lines", "bag", "log", "pairs", "still"];

const SCHEMA: &str = "
    CREATE TABLE accounts (id int PRIMARY KEY, code text UNIQUE, balance numeric NOT NULL DEFAULT 0, note text);
    CREATE TABLE lines (account int NOT NULL, n int NOT NULL, v text, at timestamptz DEFAULT clock_timestamp(), PRIMARY KEY (account, n));
    CREATE TABLE bag (v text);
    CREATE TABLE pairs (a text, b uuid, c bytea, PRIMARY KEY (b, a));
    CREATE TABLE log (id bigserial, month int NOT NULL, what text, PRIMARY KEY (id, month)) PARTITION BY LIST (month);
    CREATE TABLE log_0 PARTITION OF log FOR VALUES IN (0);
    CREATE TABLE log_1 PARTITION OF log FOR VALUES IN (1);
    CREATE TABLE log_default PARTITION OF log DEFAULT;
    CREATE TABLE still (id int, part int, v text, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
    CREATE TABLE still_0 PARTITION OF still FOR VALUES IN (0); CREATE TABLE still_1 PARTITION OF still FOR VALUES IN (1);
    CREATE TABLE still_2 PARTITION OF still FOR VALUES IN (2); CREATE TABLE still_3 PARTITION OF still FOR VALUES IN (3);
    INSERT INTO still SELECT n, n % 4, 'still' FROM generate_series(1, 2000) n;
    INSERT INTO accounts SELECT n, 'code ' || n, n FROM generate_series(1, 400) n;
    INSERT INTO lines SELECT n % 100, n, 'line' FROM generate_series(1, 2000) n;
    INSERT INTO log (month, what) SELECT n % 4, 'start' FROM generate_series(1, 1000) n;
    INSERT INTO pairs SELECT 'p' || n, gen_random_uuid(), sha256(n::text::bytea) FROM generate_series(1, 500) n;
";

/// How much is done.
struct Scale {
    seed: u64,
    hours: u32,
    sessions: usize,
    /// Transactions of one session in one hour.
    transactions: u32,
}

/// What was counted: the proof is worth what it did.
#[derive(Debug, Default)]
struct Counts {
    transactions: u64,
    refused: u64,
    left_open: u64,
    prepared: u64,
    kills: u64,
    increments: u64,
    fulls: u64,
    compared: u64,
    /// Relations that increments did not read.
    untouched: u64,
}

fn statement(random: &mut StdRng) -> String {
    let (id, other) = (random.random_range(1..600), random.random_range(1..600));
    let (account, n) = (random.random_range(0..120), random.random_range(1..3000));
    // Partitions of `still` are seldom written to, so that some hours leave them out.
    if random.random_range(0..700) == 0 {
        return format!("UPDATE still SET v = 'moved {other}' WHERE part = {} AND id % 50 = {}", id % 4, n % 50);
    }
    match random.random_range(0..17) {
        0 => format!("INSERT INTO accounts VALUES ({id}, 'code {id}', {other}) ON CONFLICT DO NOTHING"),
        1 => format!(
            "UPDATE accounts SET balance = balance + {other}, note = repeat('n', {}) WHERE id = {id}",
            other % 40
        ),
        2 => format!("DELETE FROM accounts WHERE id = {id}"),
        3 => format!(
            "UPDATE accounts SET id = {other} WHERE id = {id} AND NOT EXISTS (SELECT FROM accounts WHERE id = {other})"
        ),
        4 => format!(
            "UPDATE accounts SET code = 'swap' WHERE id = {id}; UPDATE accounts SET code = 'code x{other}' WHERE code = 'swap'"
        ),
        5 => format!(
            "INSERT INTO lines VALUES ({account}, {n}, 'new') ON CONFLICT (account, n) DO UPDATE SET v = 'again ' || {other}"
        ),
        6 => format!("UPDATE lines SET v = E'tab\\t\\\\\\\\ \"{other}\"' WHERE account = {account}"),
        7 => format!("DELETE FROM lines WHERE account = {account} AND n % 3 = {}", n % 3),
        8 => format!("UPDATE lines SET n = n + 10000 WHERE account = {account} AND n < 200"),
        9 => format!("INSERT INTO bag VALUES ('same'), ('same'), ('{other}')"),
        10 => format!("DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag ORDER BY random() LIMIT {})", other % 5),
        11 => format!("INSERT INTO log (month, what) SELECT {}, 'entry' FROM generate_series(1, 5)", id % 5),
        12 => format!("UPDATE log SET month = {}, what = 'moved' WHERE id % 500 = {}", id % 4, other % 500),
        13 => format!("DELETE FROM log WHERE id % 300 = {}", other % 300),
        14 => format!("INSERT INTO pairs SELECT 'q{other}', gen_random_uuid(), NULL FROM generate_series(1, 2)"),
        15 => format!("DELETE FROM pairs WHERE a = 'p{id}' OR a = 'q{other}'"),
        _ => format!("UPDATE pairs SET c = sha256('{n}') WHERE a = 'p{id}'"),
    }
}

/// The inside of a transaction: statements, some under savepoints that are released or rolled back.
fn work(random: &mut StdRng) -> String {
    let mut text = String::new();
    for nth in 0..random.random_range(1..5) {
        match random.random_range(0..6) {
            0 => text += &format!("SAVEPOINT s{nth}; {}; ROLLBACK TO s{nth}; ", statement(random)),
            1 => text += &format!("SAVEPOINT s{nth}; {}; RELEASE s{nth}; ", statement(random)),
            _ => text += &format!("{}; ", statement(random)),
        }
    }
    text
}

/// Runs one transaction; deadlocks, unique violations and lock timeouts refuse some, which then did nothing.
async fn transact(session: &Session, text: &str) -> bool {
    let done = session.batch(text).await.is_ok();
    if !done {
        let _ = session.batch("ROLLBACK").await;
    }
    done
}

/// One session's hour. Leaves a transaction open, or prepared, sometimes.
async fn hour(session: &Session, scale: &Scale, hour: u32, nth: usize, random: &mut StdRng) -> Counts {
    let mut counts = Counts::default();
    // What was left open an hour ago ends now.
    let end = if random.random_bool(0.6) { "COMMIT" } else { "ROLLBACK" };
    let _ = session.batch(end).await;
    for _ in 0..scale.transactions {
        let end = if random.random_bool(0.15) { "ROLLBACK" } else { "COMMIT" };
        let done = transact(session, &format!("BEGIN; {}{end}", work(random))).await;
        counts.transactions += 1;
        counts.refused += u64::from(!done);
    }
    if random.random_bool(0.3) {
        let name = format!("p{hour}_{nth}");
        let done = transact(session, &format!("BEGIN; {}PREPARE TRANSACTION '{name}'", work(random))).await;
        counts.prepared += u64::from(done);
    }
    if random.random_bool(0.5) && session.batch(&format!("BEGIN; {}", work(random))).await.is_ok() {
        counts.left_open += 1;
    } else {
        let _ = session.batch("ROLLBACK").await;
    }
    counts
}

/// What happens between hours, when nobody else works: prepared transactions end, tables are emptied, partitions move.
fn upheaval(desk: &Desk, hour: u32, random: &mut StdRng) {
    let prepared = desk.site.ask("SELECT coalesce(string_agg(gid, ' '), '') FROM pg_prepared_xacts");
    for gid in prepared.split_whitespace() {
        if random.random_bool(0.3) {
            continue;
        }
        let end = if random.random_bool(0.7) { "COMMIT" } else { "ROLLBACK" };
        desk.site.ask(&format!("{end} PREPARED '{gid}'"));
    }
    let ddl = match hour % 9 {
        1 => {
            "CREATE TABLE IF NOT EXISTS arrived (LIKE log INCLUDING DEFAULTS, PRIMARY KEY (id, month)); INSERT INTO arrived SELECT 1000000 + n, 77, 'arrived' FROM generate_series(1, 50) n ON CONFLICT DO NOTHING"
        }
        2 => "ALTER TABLE log ATTACH PARTITION arrived FOR VALUES IN (77)",
        3 => "ALTER TABLE log_0 RENAME TO log_x; ALTER TABLE log_1 RENAME TO log_0; ALTER TABLE log_x RENAME TO log_1",
        4 => "ALTER TABLE log DETACH PARTITION arrived",
        5 => "TRUNCATE bag; TRUNCATE log_0",
        6 => "CREATE INDEX IF NOT EXISTS by_note ON accounts (note); ALTER TABLE lines SET (fillfactor = 70)",
        7 => "DROP TABLE IF EXISTS arrived",
        8 => "ALTER TABLE accounts ADD COLUMN IF NOT EXISTS extra int DEFAULT 5",
        _ => "TRUNCATE pairs; INSERT INTO pairs SELECT 'p' || n, gen_random_uuid() FROM generate_series(1, 300) n",
    };
    // Open transactions hold some of these up; then it does not happen this time.
    let _ = desk.site.server.sql_in("shop", &format!("SET lock_timeout = '50ms'; {ddl}"));
    if random.random_bool(0.2) {
        let _ = desk.site.server.sql_in("shop", "SET lock_timeout = '50ms'; VACUUM (FREEZE) accounts, lines");
    }
}

const KILLED_AT: [&str; 9] = [
    "dump.snapshot",
    "dump.first_byte",
    "dump.part_sent",
    "dump.stream_end",
    "dump.object_committed",
    "dump.checksums_put",
    "catalog.claimed",
    "catalog.signature_put",
    "catalog.manifest_put",
];

/// Makes the increment, killed on its way the first time.
fn make(desk: &Desk, hour: u32, counts: &mut Counts) -> String {
    // Which tables the log touches is known segment by segment.
    desk.site.server.sql("SELECT pg_switch_wal()").unwrap();
    #[cfg(feature = "failpoints")]
    {
        use std::os::unix::process::ExitStatusExt as _;
        let point = KILLED_AT[hour as usize % KILLED_AT.len()];
        let mut command = desk.command(&["job", "run", "incremental"]);
        let killed = command.env("DBAGENT_FAILPOINT", format!("{point}=kill")).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        counts.kills += 1;
    }
    let run = desk.json(0, &["job", "run", "incremental"]);
    let id = run["run"]["end"]["result"]["done"]["artifact"].as_str().unwrap().to_owned();
    let verb = desk.json(0, &["backup", "show", &id])["copies"][0]["verb"].as_str().unwrap().to_owned();
    match verb.as_str() {
        "increment" => {
            counts.increments += 1;
            let shown = desk.json(0, &["backup", "show", &id]);
            let tables = shown["copies"][0]["manifest"]["tables"].as_array().unwrap();
            counts.untouched += tables.iter().filter(|table| table["change"]["untouched"].is_object()).count() as u64;
        }
        _ => counts.fulls += 1,
    }
    id
}

async fn prove(scale: Scale) -> Counts {
    let desk = Desk::workload(SCHEMA, &TABLES);
    let mut random = StdRng::seed_from_u64(scale.seed);
    let mut sessions = Vec::new();
    for _ in 0..scale.sessions {
        let session = desk.site.connection().connect().await.unwrap();
        session
            .batch("SET search_path = public; SET lock_timeout = '200ms'; SET deadlock_timeout = '50ms'")
            .await
            .unwrap();
        sessions.push(session);
    }
    let mut counts = Counts::default();
    let mut states: BTreeMap<u32, (String, Vec<String>)> = BTreeMap::new();
    for number in 0..scale.hours {
        let seeds: Vec<u64> = sessions.iter().map(|_| random.random()).collect();
        let work = sessions.iter().zip(seeds).enumerate().map(|(nth, (session, seed))| {
            let scale = &scale;
            async move { hour(session, scale, number, nth, &mut StdRng::seed_from_u64(seed)).await }
        });
        for done in futures_util::future::join_all(work).await {
            counts.transactions += done.transactions;
            counts.refused += done.refused;
            counts.left_open += done.left_open;
            counts.prepared += done.prepared;
        }
        upheaval(&desk, number, &mut random);
        let id = make(&desk, number, &mut counts);
        states.insert(number, (id, contents(&desk.site, "shop", &TABLES)));
    }
    for (number, (id, state)) in states {
        let name = format!("hour_{number}");
        desk.json(0, &["restore", "--database", "shop", "--backup", &id, "--to-database", &name]);
        assert_eq!(contents(&desk.site, &name, &TABLES), state, "hour {number} of seed {}", scale.seed);
        desk.site.server.sql(&format!("DROP DATABASE {name}")).unwrap();
        counts.compared += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread")]
async fn g7_a_random_workload_restores_exactly_at_every_hour() {
    let counts = prove(Scale { seed: 7, hours: 4, sessions: 3, transactions: 120 }).await;
    println!("{counts:?}");
    assert!(counts.compared == 4 && counts.increments >= 2 && counts.transactions >= 1000, "{counts:?}");
    assert!(counts.left_open + counts.prepared > 0 && counts.refused < counts.transactions / 4, "{counts:?}");
    assert!(counts.untouched > 0, "{counts:?}");
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn g7_long_a_hundred_thousand_transactions_and_fifty_increments_leave_no_difference() {
    let counts = prove(Scale { seed: 77, hours: 60, sessions: 4, transactions: 420 }).await;
    println!("{counts:?}");
    assert!(counts.transactions >= 100_000 && counts.increments >= 50 && counts.kills >= 50, "{counts:?}");
    assert!(counts.compared == 60 && counts.untouched > 10, "{counts:?}");
}
