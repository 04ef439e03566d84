//! A random workload with everything that changes files in a way of its own, backed up as a chain of incremental base
//! backups while it goes on: the restored cluster must be the source, row for row, and sound to amcheck.

use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use dbagent::model::base::BaseKind;
use dbagent::postgres::find_tool;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::base_backup::{backup, manifest};
use crate::base_incremental::{desk_with, incremental};
use crate::cli::Desk;
use crate::recover::Copy;
use crate::stage::archive::{self, switch};

/// Tables that the workload begins with, of every kind of index.
const BEGIN: &str = "
CREATE TABLE heap (n int PRIMARY KEY, line text, words tsvector, place point, span int4range);
CREATE INDEX heap_hash ON heap USING hash (line);
CREATE INDEX heap_gin ON heap USING gin (words);
CREATE INDEX heap_gist ON heap USING gist (span);
CREATE INDEX heap_spgist ON heap USING spgist (place);
CREATE INDEX heap_brin ON heap USING brin (n);
CREATE TABLE toasted (n int PRIMARY KEY, long text);
CREATE TABLE moved (n int PRIMARY KEY, line text);
CREATE UNLOGGED TABLE gone (n int PRIMARY KEY, line text);
CREATE SEQUENCE counter;
CREATE TABLE cut (n int, line text);
CREATE TABLE busy (n bigserial PRIMARY KEY, line text);
";

struct Workload {
    random: StdRng,
    next: u32,
    tables: Vec<u32>,
    databases: Vec<u32>,
}

impl Workload {
    fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), next: 1, tables: Vec::new(), databases: Vec::new() }
    }

    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    /// One thing that is done to the database `shop`, or to the cluster.
    fn step(&mut self, desk: &Desk) {
        let number = self.random.random_range(1..3000);
        let rows = |from: u32, count: u32| {
            format!(
                "SELECT n, md5(n::text || {number}), to_tsvector('simple', n || ' word' || n % {number}), \
                 point(n, n % 13), int4range(n, n + 5) FROM generate_series({from}, {}) n",
                from + count
            )
        };
        let shop = |statement: &str| desk.site.ask(statement);
        let cluster = |statement: &str| desk.site.server.sql(statement).unwrap();
        match self.random.random_range(0..26) {
            0 | 1 => drop(shop(&format!("INSERT INTO heap {} ON CONFLICT DO NOTHING", rows(number, 400)))),
            2 => drop(shop(&format!(
                "UPDATE heap SET line = line || 'u', span = int4range(n, n + 9) WHERE n % 37 = {}",
                number % 37
            ))),
            3 => drop(shop(&format!("DELETE FROM heap WHERE n % 11 = {}", number % 11))),
            4 => drop(shop("VACUUM heap")),
            5 => drop(shop("VACUUM FULL heap")),
            6 => drop(shop("CLUSTER heap USING heap_pkey")),
            7 => drop(shop("REINDEX TABLE heap")),
            8 => drop(shop(&format!(
                "INSERT INTO toasted SELECT n, (SELECT string_agg(md5((n * g)::text), '') FROM generate_series(1, 200) g) \
                 FROM generate_series({number}, {number} + 20) n ON CONFLICT (n) DO UPDATE SET long = excluded.long || 'x'"
            ))),
            9 => drop(shop(&format!("DELETE FROM toasted WHERE n % 3 = {}; SELECT nextval('counter')", number % 3))),
            10 => drop(shop(&format!("SELECT count(nextval('counter')) FROM generate_series(1, {number})"))),
            11 => {
                let to = if self.random.random_bool(0.5) { "elsewhere" } else { "pg_default" };
                drop(shop(&format!("ALTER TABLE moved SET TABLESPACE {to}")));
            }
            12 => drop(shop(&format!(
                "INSERT INTO moved SELECT n, repeat('m', n % 200) FROM generate_series({number}, {number} + 300) n ON CONFLICT DO NOTHING"
            ))),
            13 => {
                drop(shop(&format!("INSERT INTO cut SELECT n, repeat('c', 300) FROM generate_series(1, {number}) n")))
            }
            14 => {
                let kept = self.random.random_range(0..20);
                drop(shop(&format!("DELETE FROM cut WHERE ctid >= '({kept},1)'")));
                drop(shop("VACUUM (TRUNCATE) cut"));
            }
            15 => drop(shop("TRUNCATE cut")),
            16 => drop(shop("BEGIN; TRUNCATE moved; ROLLBACK")),
            17 => {
                let table = self.fresh();
                self.tables.push(table);
                drop(shop(&format!(
                    "CREATE TABLE made_{table} AS SELECT n, 'made' AS line FROM generate_series(1, {number}) n"
                )));
            }
            18 if !self.tables.is_empty() => {
                let at = self.random.random_range(0..self.tables.len());
                drop(shop(&format!("DROP TABLE made_{}", self.tables.swap_remove(at))));
            }
            19 => {
                let (database, strategy) =
                    (self.fresh(), if self.random.random_bool(0.5) { "FILE_COPY" } else { "WAL_LOG" });
                self.databases.push(database);
                drop(cluster(&format!("CREATE DATABASE copy_{database} STRATEGY {strategy}")));
                desk.site
                    .server
                    .sql_in(&format!("copy_{database}"), "CREATE TABLE own AS SELECT n FROM generate_series(1, 500) n")
                    .unwrap();
            }
            20 if !self.databases.is_empty() => {
                let at = self.random.random_range(0..self.databases.len());
                drop(cluster(&format!("DROP DATABASE copy_{}", self.databases.swap_remove(at))));
            }
            21 if !self.databases.is_empty() => {
                let to = if self.random.random_bool(0.5) { "elsewhere" } else { "pg_default" };
                let at = self.random.random_range(0..self.databases.len());
                drop(cluster(&format!("ALTER DATABASE copy_{} SET TABLESPACE {to}", self.databases[at])));
            }
            22 => {
                let (from, to) =
                    if self.random.random_bool(0.5) { ("LOGGED", "UNLOGGED") } else { ("UNLOGGED", "LOGGED") };
                drop(shop(&format!(
                    "ALTER TABLE gone SET {from}; INSERT INTO gone VALUES ({number}, 'g') ON CONFLICT DO NOTHING"
                )));
                drop(shop(&format!("ALTER TABLE gone SET {to}")));
            }
            23 => drop(shop("ALTER TABLE heap ADD COLUMN IF NOT EXISTS more int DEFAULT 7; ANALYZE")),
            24 => {
                drop(shop("CREATE INDEX CONCURRENTLY IF NOT EXISTS heap_more ON heap (line, n)"));
                drop(shop("DROP INDEX heap_more"));
            }
            _ => drop(cluster("CHECKPOINT")),
        }
    }
}

/// Everything that survives a restore: rows as text, and where sequences stand.
fn everything(ask: &dyn Fn(&str, &str) -> String) -> (String, Vec<(String, i64)>) {
    let (mut rows, mut sequences) = (String::new(), Vec::new());
    let databases = ask("postgres", "SELECT datname FROM pg_database WHERE datallowconn ORDER BY datname");
    for database in databases.lines() {
        let relations = ask(
            database,
            "SELECT relkind::text || ' ' || oid::regclass FROM pg_class WHERE relkind IN ('r', 'm', 'S') AND relpersistence = 'p' \
             AND relnamespace <> 'information_schema'::regnamespace \
             AND (relnamespace <> 'pg_catalog'::regnamespace OR relname IN ('pg_class', 'pg_attribute', 'pg_index', 'pg_proc')) \
             ORDER BY oid",
        );
        for (kind, relation) in relations.lines().map(|line| line.split_once(' ').unwrap()) {
            if kind == "S" {
                let at = ask(database, &format!("SELECT last_value FROM {relation}")).parse().unwrap();
                sequences.push((format!("{database} {relation}"), at));
                continue;
            }
            // Autovacuum counts pages and rows in pg_class as it likes.
            let row = match relation {
                "pg_class" => "(t.oid, relname, relfilenode, reltablespace, relkind, relpersistence)::text",
                _ => "t::text",
            };
            let sum = format!("count(*) || ' ' || coalesce(md5(string_agg({row}, ',' ORDER BY {row})), '')");
            let content = ask(database, &format!("SELECT {sum} FROM {relation} t"));
            writeln!(rows, "{database} {relation} {content}").unwrap();
        }
    }
    (rows, sequences)
}

/// The log has numbers of a sequence ahead, 32 of them (PostgreSQL, `SEQ_LOG_VALS`).
const AHEAD: i64 = 32;

/// A chain of `links` incremental backups over a workload of `steps` steps each.
fn chain(seed: u64, links: u32, steps: u32) {
    let desk = desk_with(&[
        ("autovacuum", "on"),
        ("autovacuum_naptime", "1s"),
        ("wal_compression", ["off", "lz4"][(seed % 2) as usize]),
    ]);
    let place = desk.site.directory("elsewhere");
    archive::give(&desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())).unwrap();
    desk.site.ask(BEGIN);
    let mut workload = Workload::new(seed);
    (0..steps).for_each(|_| workload.step(&desk));
    backup(&desk);
    let mut instead = Vec::new();
    for _ in 0..links {
        (0..steps).for_each(|_| workload.step(&desk));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Pages change while they are copied.
            let writer = scope.spawn(|| {
                let mut written = 0;
                while !stop.load(Ordering::Relaxed) {
                    desk.site.ask("INSERT INTO busy (line) SELECT repeat('b', 100) FROM generate_series(1, 50)");
                    desk.site.ask("UPDATE busy SET line = line || '.' WHERE n % 17 = (SELECT max(n) % 17 FROM busy)");
                    written += 1;
                }
                written
            });
            let outcome = incremental(&desk);
            stop.store(true, Ordering::Relaxed);
            if manifest(&desk).base.unwrap().kind == BaseKind::Full {
                instead.push(outcome["findings"].to_string());
            }
            assert!(writer.join().unwrap() > 0, "something was written meanwhile");
        });
    }
    assert!(instead.is_empty(), "seed {seed}: every one of them is incremental: {instead:?}");
    switch(&desk);
    desk.site.server.sql("ALTER SYSTEM SET autovacuum = 'off'").unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    let expected = everything(&|database, query| desk.site.server.sql_in(database, query).unwrap().trim().to_owned());
    switch(&desk);
    let map = format!("{}={}", place.display(), desk.site.root().join("far").display());
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote", "--tablespace-map", &map]);
    let found = everything(&|database, query| copy.ask_in(database, query));
    for (ours, theirs) in found.0.lines().zip(expected.0.lines()) {
        assert_eq!(ours, theirs, "seed {seed}");
    }
    assert_eq!(found.0.lines().count(), expected.0.lines().count());
    assert!(expected.0.lines().count() > 20, "{}", expected.0);
    for ((name, ours), (_, theirs)) in found.1.iter().zip(&expected.1) {
        assert!((*theirs..=theirs + AHEAD).contains(ours), "seed {seed}: {name} {ours} {theirs}");
    }
    assert!(found.1.len() == expected.1.len() && !found.1.is_empty());
    amcheck(&copy, seed);
    drop(copy);
    let _ = std::fs::remove_dir_all(desk.site.root().join("far"));
}

/// pg_amcheck over every table and B-tree of every database.
pub fn amcheck(copy: &Copy<'_>, seed: u64) {
    let output = Command::new(find_tool(None, "pg_amcheck").unwrap())
        .args(["--all", "--install-missing", "--heapallindexed", "-p", "5432", "-U", "postgres", "-h"])
        .arg(&copy.directory)
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "seed {seed}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn a_chain_of_five_over_a_random_workload_restores_to_the_source() {
    chain(1, 5, 12);
}

#[cfg(feature = "long")]
#[test]
fn a_long_run_of_chains_over_random_workloads_restores_to_the_source() {
    for seed in 100..106 {
        chain(seed, 8, 60);
        println!("seed {seed}: a chain of 8 over 540 steps is the source");
    }
}
