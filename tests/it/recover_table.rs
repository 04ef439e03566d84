//! One table as it was at a moment, into the live database: by a recovery that leaves nothing behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base_backup::backup;
use crate::base_expiry::leases;
use crate::cli::Desk;
use crate::stage::archive::{self, switch};

const CUSTOMERS: &str = "SELECT count(*), sum(hashtext(c::text)) FROM customers c";
const NOW: &str = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
const PATIENCE: Duration = Duration::from_secs(60);

/// A desk whose scratch files all go into a folder of its own, with a base backup.
fn desk() -> (Desk, PathBuf) {
    let mut desk = archive::desk();
    let scratch = desk.site.directory("s");
    archive::give(&desk);
    desk.environment.push(("TMPDIR", scratch.display().to_string()));
    backup(&desk);
    (desk, scratch)
}

/// The moment, and what surely comes after it.
fn moment(desk: &Desk) -> String {
    desk.site.ask("SELECT pg_logical_emit_message(true, 'test', 'before')");
    let moment = desk.site.ask(NOW);
    desk.site.ask("SELECT pg_logical_emit_message(true, 'test', 'after')");
    moment
}

fn accident(desk: &Desk) {
    desk.site.ask(
        "UPDATE customers SET name = 'wrong' WHERE id BETWEEN 10 AND 20; \
         UPDATE customers SET referred_by = NULL WHERE referred_by > 490; \
         DELETE FROM customers WHERE id > 490; \
         INSERT INTO customers (email) VALUES ('new@example.org')",
    );
    switch(desk);
}

fn restore(desk: &Desk, code: i32, at: &str, arguments: &[&str]) -> Value {
    desk.json(code, &[&["restore", "--target-time", at], arguments].concat())
}

/// Processes that work in `folder` or below it, with their command lines.
fn working_in(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap() {
        let process = process.unwrap().path();
        let at = std::fs::read_link(process.join("cwd")).unwrap_or_default();
        let words = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        if at.starts_with(folder) || words.contains(&format!("dbagent-guard {}", folder.display())) {
            found.push(words);
        }
    }
    found
}

/// What is in the scratch folder, and who works there; both are to be nothing.
fn left(scratch: &Path) -> Vec<String> {
    let mut left = working_in(scratch);
    left.extend(std::fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path().display().to_string()));
    left
}

fn assert_nothing_left(scratch: &Path) {
    assert_eq!(left(scratch), Vec::<String>::new());
}

/// The same of a process that had no time to clear up: its guard does.
fn await_nothing_left(scratch: &Path) {
    let deadline = Instant::now() + PATIENCE;
    while !left(scratch).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:?}", left(scratch));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_table_comes_back_as_it_was_beside_by_merge_and_by_replace() {
    let (desk, scratch) = desk();
    desk.site.ask("UPDATE customers SET name = 'after the backup' WHERE id = 7");
    let (before, at) = (desk.site.ask(CUSTOMERS), moment(&desk));
    accident(&desk);
    let damaged = desk.site.ask(CUSTOMERS);

    let plan = restore(&desk, 0, &at, &["--table", "customers", "--plan"]);
    assert!(
        plan["plan"]["segments"].as_u64().unwrap() > 0 && plan["plan"]["bytes"].as_u64().unwrap() > 1 << 20,
        "{plan}"
    );
    let beside = restore(&desk, 0, &at, &["--table", "customers"]);
    assert_eq!((&beside["restored"], &beside["rows"]), (&"public.customers_restored".into(), &500.into()), "{beside}");
    assert_eq!(beside["proofs"][0]["expected"], beside["proofs"][0]["found"], "{beside}");
    let phases: Vec<_> =
        beside["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["fetch", "settle", "recover", "table"]);
    assert_eq!(desk.site.ask(&CUSTOMERS.replace("FROM customers", "FROM customers_restored")), before);
    assert_eq!(desk.site.ask(CUSTOMERS), damaged, "beside touches nothing else");
    assert_nothing_left(&scratch);
    let again = restore(&desk, 15, &at, &["--table", "customers"]);
    assert!(again["error"]["message"].as_str().unwrap().contains("there is one already"), "{again}");

    let counted = restore(&desk, 0, &at, &["--table", "customers", "--mode", "merge", "--plan"]);
    let counts = ["missing", "differing", "extra"].map(|count| counted[count].as_u64().unwrap());
    assert_eq!((counts[0], counts[2]), (10, 1), "{counted}");
    assert!(counts[1] >= 11, "{counted}");
    assert_eq!(desk.site.ask(CUSTOMERS), damaged, "a plan changes nothing");
    restore(&desk, 0, &at, &["--table", "customers", "--mode", "merge"]);
    assert_eq!(desk.site.ask("SELECT count(*) FROM customers WHERE name = 'wrong'"), "0");
    assert_eq!(desk.site.ask("SELECT count(*) FROM customers"), "501", "merge deletes nothing");

    assert_eq!(
        restore(&desk, 15, &at, &["--table", "customers", "--mode", "replace"])["error"]["code"],
        15,
        "no --yes"
    );
    let replaced = restore(&desk, 0, &at, &["--table", "customers", "--mode", "replace", "--yes"]);
    assert_eq!(replaced["changed"]["extra"], 1, "{replaced}");
    assert_eq!(desk.site.ask(CUSTOMERS), before, "updated_at included: no trigger fired");
    assert_nothing_left(&scratch);
}

#[test]
fn tables_that_are_gone_altered_partitioned_or_oddly_named_come_back_as_they_were() {
    let (desk, scratch) = desk();
    let sum = |table: &str| desk.site.ask(&format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t"));
    desk.site.ask("UPDATE orders SET details = details || '{\"late\": true}' WHERE id % 3 = 0");
    let odd = "\"Odd \"\"name\"\"\"";
    let before = ["customers", "orders", "events", odd].map(sum);
    let at = moment(&desk);
    desk.site.ask("CREATE TABLE latecomer (id int)");
    desk.site.ask("DROP TABLE customers CASCADE");
    desk.site.ask("ALTER TABLE orders RENAME note TO remark; ALTER TABLE orders DROP COLUMN paid");
    desk.site.ask("DELETE FROM events WHERE at < '2026-01-10'; DROP TABLE events_2026_02");
    desk.site.ask(&format!("DELETE FROM {odd} WHERE \"a.b\" > 10"));
    switch(&desk);

    let gone = restore(&desk, 10, &at, &["--table", "customers", "--mode", "merge"]);
    assert!(gone["error"]["hint"].as_str().unwrap().contains("--as customers"), "{gone}");
    restore(&desk, 0, &at, &["--table", "customers", "--as", "customers"]);
    assert_eq!(sum("customers"), before[0]);
    let own = "SELECT (SELECT string_agg(conname, ' ' ORDER BY conname) FROM pg_constraint WHERE conrelid = 'customers'::regclass), \
        (SELECT string_agg(tgname, ' ') FROM pg_trigger WHERE tgrelid = 'customers'::regclass AND NOT tgisinternal), \
        (SELECT last_value FROM customers_id_seq)";
    let constraints = "customers_email_key customers_pkey customers_referred_by_fkey|touch|500";
    assert_eq!(desk.site.ask(own), constraints, "it comes back whole, its sequence with its value");

    let altered = restore(&desk, 1, &at, &["--table", "orders", "--mode", "merge"]);
    let message = altered["error"]["message"].as_str().unwrap();
    assert!(message.contains("note is gone") && message.contains("remark is new"), "{message}");
    restore(&desk, 0, &at, &["--table", "orders", "--as", "public.orders_then"]);
    assert_eq!(sum("orders_then"), before[1], "in the form it had then");

    restore(&desk, 0, &at, &["--table", "events"]);
    assert_eq!(sum("events_restored"), before[2]);
    restore(&desk, 0, &at, &["--table", odd, "--mode", "replace", "--yes"]);
    assert_eq!(sum(odd), before[3]);

    let never = restore(&desk, 10, &at, &["--table", "latecomer"]);
    assert!(
        never["error"]["message"].as_str().unwrap().contains("find the table latecomer in the database shop as of"),
        "{never}"
    );
    assert_nothing_left(&scratch);
    let tables = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace";
    let tables = desk.site.ask(tables);
    assert!(!tables.contains("latecomer_restored") && !tables.contains("incomplete"), "{tables}");
}

#[test]
fn a_position_a_transaction_a_restore_point_and_the_end_of_the_log_are_targets_as_well() {
    let (desk, scratch) = desk();
    desk.site.ask("CREATE TABLE ledger (id int PRIMARY KEY)");
    let add = |id: u32| {
        desk.site.ask(&format!(
            "WITH row AS (INSERT INTO ledger VALUES ({id}) RETURNING 1) SELECT pg_current_xact_id() FROM row"
        ))
    };
    add(1);
    let position = desk.site.ask("SELECT pg_current_wal_insert_lsn()");
    let transaction = add(2);
    desk.site.ask("SELECT pg_create_restore_point('three')");
    add(3);
    switch(&desk);
    desk.site.ask("TRUNCATE ledger");
    let rows = |arguments: &[&str]| {
        let restored = desk.json(0, &[&["restore", "--table", "ledger"], arguments].concat());
        assert_eq!(restored["restored"], "public.ledger_restored");
        let rows = desk.site.ask("SELECT string_agg(id::text, ' ' ORDER BY id) FROM ledger_restored");
        desk.site.ask("DROP TABLE ledger_restored");
        rows
    };
    assert_eq!(rows(&["--target-lsn", &position]), "1");
    assert_eq!(rows(&["--target-xid", &transaction]), "1 2");
    assert_eq!(rows(&["--target-xid", &transaction, "--exclusive"]), "1");
    assert_eq!(rows(&["--target-name", "three"]), "1 2");
    assert_eq!(rows(&["--latest"]), "1 2 3", "the truncation is in no archived segment yet");
    assert_nothing_left(&scratch);
}

#[test]
fn what_the_transaction_at_the_target_has_locked_is_read_as_it_was() {
    let (desk, scratch) = desk();
    let sum = |table: &str| desk.site.ask(&format!("SELECT count(*), sum(hashtext(t::text)) FROM {table} t"));
    let before = ["customers", "orders"].map(sum);
    desk.site.ask("CREATE TABLE dropped_by (id xid8); CREATE TABLE truncated_at (at timestamptz)");
    desk.site.ask("BEGIN; DROP TABLE customers CASCADE; INSERT INTO dropped_by SELECT pg_current_xact_id(); COMMIT");
    let id = desk.site.ask("SELECT id FROM dropped_by");
    // The moment lies between the truncation and its commit.
    desk.site.ask("BEGIN; TRUNCATE orders CASCADE; INSERT INTO truncated_at SELECT clock_timestamp(); SELECT pg_sleep(0.05); COMMIT");
    let at = "SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM truncated_at";
    let at = desk.site.ask(at);
    switch(&desk);

    // A copy that stays is paused there, and says what waits without end.
    let paused = crate::recover::Copy::restore(&desk, "c", &["--target-xid", &id, "--exclusive"]);
    let locked = paused.started["locked"].as_array().unwrap();
    assert!(locked.contains(&"public.customers".into()), "the lock was met: {}", paused.started);
    assert!(locked.iter().all(|name| !name.as_str().unwrap().contains("dropped_by")), "{}", paused.started);
    paused.ask("SELECT pg_wal_replay_resume()");
    let all = CUSTOMERS.replace("FROM customers", "FROM public.customers");
    assert_eq!(paused.ask(&all), before[0], "what it says to do makes them readable");
    drop(paused);

    let by_id = ["restore", "--table", "customers", "--as", "customers", "--target-xid", &id, "--exclusive"];
    let back = desk.json(0, &by_id);
    assert_eq!(back["proofs"][0]["expected"], back["proofs"][0]["found"], "{back}");
    assert_eq!(sum("customers"), before[0]);
    restore(&desk, 0, &at, &["--table", "orders"]);
    assert_eq!(sum("orders_restored"), before[1]);
    assert_eq!(desk.site.ask("SELECT count(*) FROM orders"), "0", "the live one is as it was");
    assert_nothing_left(&scratch);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    let (desk, scratch) = desk();
    let at = moment(&desk);
    switch(&desk);
    let message = |refused: &Value| refused["error"]["message"].as_str().unwrap().to_owned();
    let outside = restore(&desk, 14, "2038-01-01T00:00:00Z", &["--table", "customers"]);
    assert!(message(&outside).contains("any moment from"), "{outside}");
    let keyless = restore(&desk, 1, &at, &["--table", "events", "--mode", "merge"]);
    assert!(message(&keyless).contains("no primary key"), "{keyless}");
    assert_eq!(restore(&desk, 2, &at, &["--table", "customers", "--until", &at])["error"]["code"], 2);
    let timeline = desk.json(2, &["restore", "--table", "customers", "--timeline", "1"]);
    assert!(message(&timeline).contains("a dump has none"), "{timeline}");

    let text = std::fs::read_to_string(&desk.config).unwrap();
    // A file system without any room.
    desk.configure("[restore]\nscratch_directory = '/proc'\n");
    let full = restore(&desk, 15, &at, &["--table", "customers"]);
    assert!(message(&full).contains("0 B are free"), "{full}");
    std::fs::write(&desk.config, &text).unwrap();

    let programs = desk.site.directory("programs");
    let real = dbagent::postgres::find_tool(None, "pg_dump").unwrap().parent().unwrap().to_owned();
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        std::os::unix::fs::symlink(real.join(name), programs.join(name)).unwrap();
    }
    for name in ["postgres", "pg_ctl"] {
        let path = programs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\necho '{name} (PostgreSQL) 14.1'\n")).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    archive::give(&desk);
    let section = format!("[postgres]\nbin_directory = '{}'\n", programs.display());
    std::fs::write(&desk.config, text.replace("[postgres]\n", &section)).unwrap();
    let other = restore(&desk, 1, &at, &["--table", "customers"]);
    assert!(message(&other).contains("server's programs of PostgreSQL 15: found pg_ctl (PostgreSQL) 14.1"), "{other}");
    std::fs::write(&desk.config, &text).unwrap();

    let place = desk.site.directory("ts");
    archive::give(&desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE later LOCATION '{}'", place.display())).unwrap();
    desk.site.ask("CREATE TABLE far TABLESPACE later AS SELECT n FROM generate_series(1, 5000) n");
    let at = moment(&desk);
    switch(&desk);
    let stray = restore(&desk, 15, &at, &["--table", "customers"]);
    assert!(message(&stray).contains("was made after the base backup"), "{stray}");
    assert_eq!(desk.site.ask("SELECT count(*) FROM far"), "5000");
    assert_nothing_left(&scratch);
    // With a backup that knows it, the copy has its own.
    backup(&desk);
    desk.site.ask("INSERT INTO far VALUES (5001)");
    let at = moment(&desk);
    desk.site.ask("DELETE FROM far");
    switch(&desk);
    restore(&desk, 0, &at, &["--table", "far"]);
    assert_eq!(desk.site.ask("SELECT count(*) || ' ' || max(n) FROM far_restored"), "5001 5001");
    assert_nothing_left(&scratch);
}

#[test]
fn told_to_stop_it_changes_nothing_and_leaves_nothing() {
    let (desk, scratch) = desk();
    let at = moment(&desk);
    accident(&desk);
    let damaged = desk.site.ask(CUSTOMERS);
    // It waits for the table's lock, and is waiting when it is told.
    let holder = holding(&desk, "LOCK TABLE customers IN SHARE MODE");
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let running = desk
            .command(&["restore", "--target-time", &at, "--table", "customers", "--mode", "replace", "--yes"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'customers'::regclass AND mode = 'ShareRowExclusiveLock'";
        await_answer(&desk, waits, "1");
        assert!(working_in(&scratch).iter().any(|words| words.contains("postgres")), "its server runs");
        rustix::process::kill_process(rustix::process::Pid::from_child(&running), signal).unwrap();
        let ended = running.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
        await_nothing_left(&scratch);
        // The live server notices that nobody waits any more when the wait for the lock is over.
        await_answer(&desk, waits, "0");
    }
    drop(holder);
    assert_eq!(desk.site.ask(CUSTOMERS), damaged);
}

/// A copy that is removed needs no lease any more.
#[test]
fn told_to_stop_on_the_way_to_the_moment_it_leaves_no_lease() {
    let (desk, scratch) = desk();
    let at = moment(&desk);
    accident(&desk);
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let running = desk
            .command(&["restore", "--target-time", &at, "--table", "customers"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + PATIENCE;
        while leases(&desk).is_empty() {
            assert!(Instant::now() < deadline, "it never leased its backup");
            std::thread::sleep(Duration::from_millis(2));
        }
        rustix::process::kill_process(rustix::process::Pid::from_child(&running), signal).unwrap();
        let ended = running.wait_with_output().unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{told}");
        assert!(told.contains("told to stop") && told.contains("The copy is removed"), "{told}");
        await_nothing_left(&scratch);
        assert_eq!(leases(&desk), Vec::<PathBuf>::new(), "{told}");
    }
    assert_eq!(desk.site.ask("SELECT to_regclass('customers_restored') IS NULL"), "t");
}

struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Another session that holds what `statement` locks.
fn holding(desk: &Desk, statement: &str) -> Held {
    let command = format!("SET application_name = 'holder'; BEGIN; {statement}; SELECT pg_sleep(600)");
    let mut psql = std::process::Command::new("psql");
    psql.args(["-XqAt", "-U", "postgres", "-d", "shop", "-c", &command, "-h"]).arg(desk.site.server.directory());
    let held = Held(psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    await_answer(
        desk,
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'holder' AND wait_event = 'PgSleep'",
        "1",
    );
    held
}

fn await_answer(desk: &Desk, query: &str, answer: &str) {
    let deadline = Instant::now() + PATIENCE;
    while desk.site.ask(query) != answer {
        assert!(Instant::now() < deadline, "{query} never was {answer}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(feature = "failpoints")]
#[test]
fn f04_killed_anywhere_it_leaves_no_server_no_file_and_no_half_table() {
    use std::os::unix::process::ExitStatusExt as _;

    let (desk, scratch) = desk();
    // More than one block of rows, so that some are there and some are not.
    desk.site.ask("UPDATE orders SET note = repeat(md5(id::text), 8)");
    let sum = "SELECT count(*), sum(hashtext(o::text)) FROM orders o";
    let (before, at) = (desk.site.ask(sum), moment(&desk));
    desk.site.ask("DELETE FROM orders WHERE id > 1000");
    switch(&desk);
    let damaged = desk.site.ask(sum);
    let log = desk.site.root().join("fired");
    let points = ["recover.marked", "recover.mid_file", "recover.before_unmark", "aside.recovered", "restore.mid_load"];
    for point in points {
        let killed = desk
            .command(&["restore", "--target-time", &at, "--table", "orders"])
            .env("DBAGENT_FAILPOINT", format!("{point}=kill"))
            .env("DBAGENT_FAILPOINT_LOG", &log)
            .output()
            .unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        await_nothing_left(&scratch);
        assert_eq!(desk.site.ask("SELECT to_regclass('orders_restored') IS NULL"), "t", "{point}");
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), points.len());
    assert_eq!(desk.site.ask(sum), damaged);
    // What the machine's end left, guard and all, the next run removes.
    let left = scratch.join("dbagent-past-left");
    std::fs::create_dir(&left).unwrap();
    std::fs::write(left.join("rows"), "somebody's").unwrap();
    std::fs::set_permissions(&left, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    archive::give(&desk);
    restore(&desk, 0, &at, &["--table", "orders"]);
    assert_nothing_left(&scratch);
    assert_eq!(desk.site.ask(&sum.replace("FROM orders", "FROM orders_restored")), before);
}
