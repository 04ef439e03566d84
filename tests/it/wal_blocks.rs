//! What we read in a real server's log beside what its own pg_waldump reads in it.

use std::collections::BTreeSet;
use std::process::Command;

use dbagent::model::blocks::{BlockChanges, Changed, RelationKey};
use dbagent::model::lsn::{Lsn, Timeline};
use dbagent::model::timeline::TimelineHistory;
use dbagent::model::wal::SegmentName;
use dbagent::postgres::find_tool;
use dbagent::postgres::wal_blocks::{contents, note};
use dbagent::postgres::wal_records::RecordReader;
use dbagent::steps::blocks::{BlockStore, summarize};

/// Every record of a segment.
const END: Lsn = Lsn(u64::MAX);
use proptest::prelude::*;

use crate::stage::wal::WalSite;

/// Everything that writes the log in a way of its own.
const NASTY: &[&str] = &[
    "CREATE TABLE t (id int PRIMARY KEY, line text, words tsvector, place point, span int4range)",
    "CREATE INDEX ON t USING hash (line); CREATE INDEX ON t USING gin (words); CREATE INDEX ON t USING gist (span)",
    "CREATE INDEX ON t USING spgist (place); CREATE INDEX ON t USING brin (id)",
    "INSERT INTO t SELECT n, md5(n::text), to_tsvector('simple', n || ' word' || n % 7), point(n, n % 13), int4range(n, n + 5)
     FROM generate_series(1, 6000) n",
    "UPDATE t SET line = line || 'x' WHERE id % 3 = 0",
    "DELETE FROM t WHERE id > 3000",
    "VACUUM t",
    "CREATE SEQUENCE s; SELECT nextval('s') FROM generate_series(1, 100)",
    "CREATE TABLE toasted AS SELECT n, (SELECT string_agg(md5((n * g)::text), '') FROM generate_series(1, 300) g) AS long
     FROM generate_series(1, 60) n",
    "SELECT pg_logical_emit_message(true, 'large', repeat(md5('x'), 100000))",
    "CREATE UNLOGGED TABLE u AS SELECT * FROM generate_series(1, 1000) n",
    "ALTER TABLE u SET LOGGED",
    "CREATE MATERIALIZED VIEW v AS SELECT id, line FROM t",
    "TRUNCATE u",
    "CLUSTER t USING t_pkey",
    "VACUUM FULL t",
    "DO $$ BEGIN FOR n IN 1..50 LOOP EXECUTE format('CREATE TABLE many_%s (a int, b text)', n); END LOOP; END $$",
    "DO $$ BEGIN FOR n IN 1..50 LOOP EXECUTE format('DROP TABLE many_%s', n); END LOOP; END $$",
    "BEGIN; SAVEPOINT a; INSERT INTO s_log VALUES (1); ROLLBACK TO a; COMMIT",
];

/// A line of pg_waldump's for a block: position of the record, relation, fork, block.
type Reference = (u64, RelationKey, String, u32);

fn waldump(site: &WalSite, from: Lsn, to: Lsn) -> BTreeSet<Reference> {
    let program = find_tool(None, "pg_waldump").unwrap();
    let output = Command::new(program)
        .arg("-p")
        .arg(site.pg_wal())
        .args(["-s", &from.to_string(), "-e", &to.to_string()])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| line.starts_with("rmgr: ")) {
        let position: Lsn = between(line, "lsn: ", ",").parse().unwrap();
        for reference in line.split("blkref #").skip(1) {
            let relation: Vec<u32> =
                between(reference, "rel ", " ").split('/').map(|word| word.parse().unwrap()).collect();
            let fork = if reference.contains(" fork ") { between(reference, "fork ", " ") } else { "main" };
            let block = between(&format!("{reference} "), "blk ", " ").trim_end_matches([',', ';']).parse().unwrap();
            let [tablespace, database, number] = relation[..] else { panic!("{line}") };
            found.insert((position.0, RelationKey { tablespace, database, number }, fork.to_owned(), block));
        }
    }
    found
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(begin).unwrap_or_else(|| panic!("{begin:?} in {text:?}"));
    rest.split_once(end).map_or(rest, |(found, _)| found).trim()
}

fn position(site: &WalSite) -> Lsn {
    site.server.sql("SELECT pg_current_wal_insert_lsn()").unwrap().trim().parse().unwrap()
}

fn nasty(site: &WalSite) {
    site.server.sql("CREATE TABLE s_log (n int)").unwrap();
    for statements in NASTY {
        for statement in statements.split("; ") {
            if statement.starts_with("BEGIN") || statement.starts_with("DO") {
                site.server.sql(statements).unwrap();
                break;
            }
            site.server.sql(statement).unwrap();
        }
        site.server.sql("CHECKPOINT").unwrap();
    }
}

fn segments(site: &WalSite, from: Lsn, to: Lsn) -> Vec<SegmentName> {
    let size = site.size();
    (size.number_at(from)..=size.number_at(to))
        .map(|number| SegmentName::of_number(Timeline(1), number, size))
        .collect()
}

#[test]
fn references_are_exactly_those_of_pg_waldump_with_every_compression_of_images() {
    let all: &[&str] = if cfg!(feature = "long") { &["off", "pglz", "lz4", "zstd"] } else { &["off", "lz4"] };
    for compression in all {
        let site = WalSite::with(&[("wal_compression", *compression), ("wal_keep_size", "512MB"), ("fsync", "off")]);
        let from = position(&site);
        nasty(&site);
        let to = position(&site);
        site.server.sql("SELECT pg_switch_wal()").unwrap();
        let mut ours = BTreeSet::new();
        let mut reader = RecordReader::new(site.size(), Lsn(size_floor(&site, from)));
        let (mut records, mut crossing) = (0, 0);
        for segment in segments(&site, from, to) {
            let bytes = std::fs::read(site.path(segment)).unwrap();
            for page in bytes.chunks(8192) {
                let read = reader.page(page, &mut |record| {
                    if record.start < from || record.start >= to {
                        return;
                    }
                    records += 1;
                    crossing +=
                        u32::from(site.size().number_at(record.start) != site.size().number_at(Lsn(record.end.0 - 1)));
                    for reference in contents(&record).unwrap().references {
                        let fork = ["main", "fsm", "vm", "init"][usize::from(reference.fork)];
                        ours.insert((record.start.0, reference.relation, fork.to_owned(), reference.block));
                    }
                    note(&record, &mut BlockChanges::default()).unwrap();
                });
                if reader.to() >= to {
                    break;
                }
                read.unwrap();
            }
        }
        let theirs = waldump(&site, from, to);
        assert!(theirs.len() > 10_000 && records > 10_000 && crossing > 3, "{} {records} {crossing}", theirs.len());
        let missing: Vec<_> = theirs.difference(&ours).take(5).collect();
        let extra: Vec<_> = ours.difference(&theirs).take(5).collect();
        assert!(missing.is_empty() && extra.is_empty(), "{compression}: missing {missing:?}, extra {extra:?}");
    }
}

fn size_floor(site: &WalSite, position: Lsn) -> u64 {
    position.0 / site.size().bytes() * site.size().bytes()
}

/// The main forks' blocks that pg_waldump sees.
fn changed(site: &WalSite, from: Lsn, to: Lsn) -> BTreeSet<(RelationKey, u32)> {
    let references = waldump(site, from, to).into_iter();
    references.filter(|(_, _, fork, _)| fork == "main").map(|(_, relation, _, block)| (relation, block)).collect()
}

#[test]
fn summaries_of_segments_add_up_to_the_whole_log_with_and_without_the_segment_before() {
    let site = WalSite::with(&[("wal_keep_size", "512MB"), ("fsync", "off")]);
    let from = position(&site);
    nasty(&site);
    let to = position(&site);
    let (directory, history) = (site.directory(), TimelineHistory::root(Timeline(1)));
    let expected = changed(&site, from, to);
    assert!(expected.len() > 500, "{}", expected.len());
    let names = segments(&site, from, to);
    assert!(names.len() > 8, "{names:?}");

    // As the archiver hands them over, each with the one before it still there.
    let near = BlockStore::below(&site.files.path().join("near"));
    for segment in &names[..names.len() - 1] {
        near.add(*segment, &site.path(segment), &directory).unwrap();
        assert!(near.has(directory.system_identifier, *segment), "{segment}");
    }
    let found: BTreeSet<_> = near.changes(&history, (from, to), &directory).unwrap().blocks().collect();
    let missing: Vec<_> = expected.difference(&found).take(5).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // More than asked for: the first segment has records before `from`, and goes on.
    assert!(found.len() < expected.len() + 2000, "{} {}", found.len(), expected.len());

    // Each alone in a folder: what begins in the one before is told by its summary.
    let (mut proven, mut crossing, mut cut) = (None, 0, 0);
    let far = BlockStore::below(&site.files.path().join("far"));
    for segment in &names[..names.len() - 1] {
        let folder = site.files.path().join(format!("alone-{segment}"));
        std::fs::create_dir(&folder).unwrap();
        let copy = folder.join(segment.to_string());
        std::fs::copy(site.path(segment), &copy).unwrap();
        let without = summarize(*segment, &copy, &directory, END, &|_| None).unwrap().summary;
        let summary = far.add(*segment, &copy, &directory).unwrap();
        if let Some(proven) = proven.replace(summary.proven) {
            assert_eq!(summary.from, proven, "{segment}");
            crossing += u32::from(without.from > proven);
        }
        cut += u32::from(summary.tail.is_some());
    }
    assert!(crossing > 3 && cut >= crossing, "{crossing} {cut}");
    let alone: BTreeSet<_> = far.changes(&history, (from, to), &directory).unwrap().blocks().collect();
    assert_eq!(alone, found);
    // An open segment up to a position.
    let last = *names.last().unwrap();
    let open = far.summarize(last, &site.path(last), &directory, to).unwrap().summary;
    assert!(open.proven >= to, "{open:?}");
}

#[test]
fn what_is_missing_is_made_from_pg_wal_and_told_where_that_has_it_no_more() {
    let site = WalSite::with(&[("wal_keep_size", "64MB")]);
    let names = site.segments(6);
    let size = site.size();
    let (directory, history) = (site.directory(), TimelineHistory::root(Timeline(1)));
    // A switch ended the segment before, so that a record begins there.
    let from = names[1].start(size).unwrap();
    let to = names[5].start(size).unwrap();
    let store = BlockStore::below(&site.files.path().join("state"));
    let whole = store.changes(&history, (from, to), &directory).unwrap();
    assert!(whole.count() > 0 && names[1..5].iter().all(|name| store.has(directory.system_identifier, *name)));
    for name in &names {
        std::fs::rename(site.path(name), site.files.path().join(name.to_string())).unwrap();
    }
    assert_eq!(store.changes(&history, (from, to), &directory), Ok(whole.clone()), "from the summaries alone");
    let folder = site.files.path().join(format!("state/blocks/{}/00000001", directory.system_identifier));
    let path = folder.join(format!("{}.blocks.zst", names[2]));
    let bytes = std::fs::read(&path).unwrap();
    for damaged in [&[][..], &bytes[..bytes.len() / 2], b"something else"] {
        std::fs::write(&path, damaged).unwrap();
        let reason = store.changes(&history, (from, to), &directory).unwrap_err();
        assert!(reason.contains(&names[2].to_string()), "{reason}");
    }
    // Back in pg_wal, it is read again.
    std::fs::rename(site.files.path().join(names[2].to_string()), site.path(names[2])).unwrap();
    assert_eq!(store.changes(&history, (from, to), &directory), Ok(whole));
    store.prune(directory.system_identifier, names[3].start(size).unwrap(), size);
    let left = std::fs::read_dir(folder).unwrap().count();
    assert_eq!(left, 2, "those of segments before it are gone");
}

#[test]
fn a_database_copied_by_files_and_a_cut_off_table_are_known() {
    let site = WalSite::with(&[("wal_keep_size", "64MB")]);
    site.server.sql("CREATE TABLE t AS SELECT repeat('x', 500) AS line FROM generate_series(1, 2000)").unwrap();
    site.server.sql("VACUUM t").unwrap();
    let from = position(&site);
    site.server.sql("DELETE FROM t WHERE ctid > '(20,0)'").unwrap();
    site.server.sql("VACUUM (TRUNCATE) t").unwrap();
    site.server.sql("CREATE DATABASE copied STRATEGY FILE_COPY").unwrap();
    let to = position(&site);
    let (directory, history) = (site.directory(), TimelineHistory::root(Timeline(1)));
    let store = BlockStore::below(&site.files.path().join("state"));
    let changes = store.changes(&history, (from, to), &directory).unwrap();
    let ask = |query: &str| site.server.sql(query).unwrap().trim().parse::<u32>().unwrap();
    let database = ask("SELECT oid FROM pg_database WHERE datname = 'copied'");
    let key = RelationKey { tablespace: 1663, database, number: 1259 };
    assert_eq!(changes.in_file(key, 0, 131_072, 14), Changed::Whole);
    let number = ask("SELECT pg_relation_filenode('t')");
    let own = ask("SELECT oid FROM pg_database WHERE datname = current_database()");
    let table = RelationKey { tablespace: 1663, database: own, number };
    let blocks = ask("SELECT pg_relation_size('t') / 8192");
    assert!((20..=22).contains(&blocks), "{blocks}");
    let Changed::Blocks(found) = changes.in_file(table, 0, 131_072, 30) else { panic!("a limit makes no whole file") };
    assert!((blocks..30).all(|block| found.contains(&block)), "everything beyond the cut is new");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(feature = "long") { 20_000 } else { 300 }))]

    /// Real pages with garbage in them never make the reader panic, nor read on as if nothing were.
    #[test]
    fn garbage_in_the_log_is_an_error_and_no_panic(
        damage in proptest::collection::vec((0_usize..(1 << 18), any::<u8>()), 1..20),
        first in 0_u64..8,
    ) {
        let (start, mut bytes) = sample();
        damage.iter().for_each(|(at, value)| bytes[*at] = *value);
        let size = dbagent::model::wal::SegmentSize::new(1 << 20).unwrap();
        let mut reader = RecordReader::new(size, Lsn(start.0 + first * 8192));
        for page in bytes.chunks(8192).skip(first as usize) {
            let read = reader.page(page, &mut |record| {
                let _ = contents(&record);
                let _ = note(&record, &mut BlockChanges::default());
            });
            if read.is_err() {
                break;
            }
        }
        if let Some(record) = reader.unfinished() {
            let _ = note(&record, &mut BlockChanges::default());
        }
    }
}

/// The first 256 KiB of a segment of a fresh cluster, read once, and where it begins.
fn sample() -> (Lsn, Vec<u8>) {
    static SAMPLE: std::sync::OnceLock<(Lsn, Vec<u8>)> = std::sync::OnceLock::new();
    SAMPLE
        .get_or_init(|| {
            let site = WalSite::new();
            let segment = site.current();
            site.server.sql("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 3000) n").unwrap();
            site.server.sql("SELECT pg_switch_wal()").unwrap();
            let mut bytes = std::fs::read(site.path(segment)).unwrap();
            bytes.truncate(1 << 18);
            (segment.start(site.size()).unwrap(), bytes)
        })
        .clone()
}

#[test]
fn what_was_written_with_wal_level_minimal_cannot_be_built_upon() {
    let mut site = WalSite::with(&[("wal_keep_size", "64MB")]);
    let from = position(&site);
    for (level, senders) in [("minimal", "0"), ("replica", "10")] {
        site.server.sql(&format!("ALTER SYSTEM SET wal_level = '{level}'")).unwrap();
        site.server.sql(&format!("ALTER SYSTEM SET max_wal_senders = '{senders}'")).unwrap();
        site.server.stop();
        site.server.resume().unwrap();
        assert_eq!(site.server.sql("SHOW wal_level").unwrap().trim(), level);
    }
    let (directory, history) = (site.directory(), TimelineHistory::root(Timeline(1)));
    let store = BlockStore::below(&site.files.path().join("state"));
    let reason = store.changes(&history, (from, position(&site)), &directory).unwrap_err();
    assert!(reason.contains("wal_level was set to minimal"), "{reason}");
    site.server.sql("SELECT pg_switch_wal()").unwrap();
    let here = position(&site);
    site.server.sql("CREATE TABLE t (n int)").unwrap();
    let to = position(&site);
    // The server writes the log at its leisure here; a switch makes it write.
    site.server.sql("SELECT pg_switch_wal()").unwrap();
    assert_eq!(store.changes(&history, (here, to), &directory).map(drop), Ok(()));
}
