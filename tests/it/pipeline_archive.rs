//! The archive reader against real pg_dump output: its sums are those of the lines that COPY gives.

use std::collections::BTreeMap;
use std::process::Command;

use dbagent::model::digest::TableSum;
use dbagent::model::table::{QualifiedTable, quote_identifier};
use dbagent::pipeline::archive::{ArchiveError, ArchiveReader, Event, RowSums};
use dbagent::postgres::find_tool;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};
use proptest::prelude::*;

type Sums = BTreeMap<QualifiedTable, TableSum>;

/// Tables whose names and rows are as odd as PostgreSQL allows.
const SCHEMA: &str = r#"
CREATE SCHEMA "s.p";
CREATE TABLE plain (id int PRIMARY KEY, t text);
INSERT INTO plain SELECT n, repeat('x', n % 300) || E'\t\n\\' || n FROM generate_series(1, 5000) n;
CREATE TABLE "s.p"."we.ird ""name""" (t text);
INSERT INTO "s.p"."we.ird ""name""" VALUES (''), (''), (NULL), ('\.'), (E'\\.'), (E'a\nb\\.\nc'), ('ünïcödé 🐘');
CREATE TABLE "s.p"."новая
таблица" ("col
umn" int);
INSERT INTO "s.p"."новая
таблица" SELECT generate_series(1, 10);
CREATE TABLE no_columns ();
INSERT INTO no_columns DEFAULT VALUES;
INSERT INTO no_columns DEFAULT VALUES;
CREATE TABLE empty (id int);
CREATE TABLE long_rows (id int, t text);
INSERT INTO long_rows SELECT n, repeat(md5(n::text), 20000) FROM generate_series(1, 3) n;
CREATE TABLE parted (id int, t text) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (200);
INSERT INTO parted SELECT n, 'row ' || n FROM generate_series(0, 199) n;
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM plain;
CREATE FUNCTION long_body() RETURNS text LANGUAGE sql AS $$ SELECT 'PGDMP' || repeat('x', 10) $$;
SELECT lo_from_bytea(0, decode(repeat('00ff', 50000), 'hex')), lo_from_bytea(0, '');
"#;

/// A server with the client tools that speak to it.
struct Server(ScratchServer);

impl Server {
    fn start() -> Self {
        Self(ScratchServer::start(ScratchOptions::default()).unwrap())
    }

    fn run(&self, tool: &str, arguments: &[&str]) -> Vec<u8> {
        let output = Command::new(find_tool(None, tool).unwrap())
            .args(arguments)
            .env("PGHOST", self.0.directory())
            .env("PGPORT", self.0.port().to_string())
            .env("PGUSER", "postgres")
            .output()
            .unwrap();
        assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    fn dump(&self, more: &[&str]) -> Vec<u8> {
        self.run("pg_dump", &[&["-Fc", "-Z0", "-d", "postgres"], more].concat())
    }

    fn sum(&self, table: &QualifiedTable) -> TableSum {
        let copy = format!("COPY {} TO STDOUT", table.quoted());
        let lines = self.run("psql", &["-qX", "-d", "postgres", "-c", &copy]);
        let mut sum = TableSum::default();
        let mut rest = lines.as_slice();
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            sum.add_row(&rest[..end]);
            rest = &rest[end + 1..];
        }
        assert!(rest.is_empty());
        sum
    }
}

fn sums(archive: &[u8], piece: usize) -> Result<Sums, ArchiveError> {
    let (mut reader, mut sums) = (ArchiveReader::default(), RowSums::default());
    for mut bytes in archive.chunks(piece) {
        while let Some(event) = reader.next(&mut bytes)? {
            sums.take(event)?;
        }
    }
    reader.finish()?;
    Ok(sums.finish().0)
}

fn names(sums: &Sums) -> Vec<String> {
    sums.keys().map(QualifiedTable::quoted).collect()
}

#[test]
fn sums_of_a_real_dump_are_those_of_the_lines_that_copy_gives() {
    let server = Server::start();
    server.0.sql(SCHEMA).unwrap();
    let archive = server.dump(&["-b"]);
    let found = sums(&archive, 1 << 20).unwrap();
    assert_eq!(found.len(), 8, "{:?}", names(&found));
    let odd = ["we.ird \"name\"", "новая\nтаблица"].map(|name| QualifiedTable::new("s.p", name));
    assert!(odd.iter().all(|table| found[table].rows > 0));
    for (table, sum) in &found {
        assert_eq!(*sum, server.sum(table), "{table}");
    }
    for piece in [1, 7, 4096, usize::MAX] {
        assert_eq!(sums(&archive, piece).unwrap(), found, "in pieces of {piece}");
    }
    large_objects_come_whole(&archive);
    copy_statements_name_their_columns(&archive);
    truncations_are_found(&archive);
    damage_never_panics(&archive);
    other_kinds_of_dumps(&server, &found);
}

fn large_objects_come_whole(archive: &[u8]) {
    let (mut reader, mut input, mut objects) = (ArchiveReader::default(), archive, Vec::new());
    while let Some(event) = reader.next(&mut input).unwrap() {
        match event {
            Event::LargeObjectBegin { oid } => objects.push((oid, Vec::new())),
            Event::LargeObjectData(bytes) => objects.last_mut().unwrap().1.extend_from_slice(bytes),
            _ => {}
        }
    }
    let mut bytes: Vec<Vec<u8>> = objects.into_iter().map(|(_, bytes)| bytes).collect();
    bytes.sort();
    assert_eq!(bytes, [vec![], [0, 255].repeat(50_000)]);
}

fn copy_statements_name_their_columns(archive: &[u8]) {
    let (mut reader, mut input, mut statements) = (ArchiveReader::default(), archive, Vec::new());
    while let Some(event) = reader.next(&mut input).unwrap() {
        if let Event::TableBegin(table) = event {
            statements.push(table.copy_statement);
        }
    }
    assert!(statements.contains(&"COPY public.plain (id, t) FROM stdin;\n".to_owned()), "{statements:?}");
    assert!(statements.contains(&format!("COPY \"s.p\".{} (t) FROM stdin;\n", quote_identifier("we.ird \"name\""))));
}

/// Cut inside the contents, at every place around the first rows, and at the very end.
fn truncations_are_found(archive: &[u8]) {
    let around = archive.windows(6).position(|bytes| bytes == b"1\tx\\t\\").unwrap();
    let places = (0..500).chain(around - 100..around + 300).chain(archive.len() - 5..archive.len());
    for end in places {
        assert!(sums(&archive[..end], 1 << 20).is_err(), "cut at {end} of {}", archive.len());
    }
}

/// Any byte changed is an error, another sum, or nothing that matters; never a panic.
fn damage_never_panics(archive: &[u8]) {
    let mut damaged = archive[..12_000].to_vec();
    for at in (0..8_000).step_by(3) {
        for flip in [0x01, 0xff] {
            damaged[at] ^= flip;
            let _ = sums(&damaged, 1 << 20);
            damaged[at] ^= flip;
        }
    }
}

fn other_kinds_of_dumps(server: &Server, full: &Sums) {
    for more in [&["--schema-only"][..], &["--section=pre-data"], &["--section=post-data"]] {
        assert_eq!(sums(&server.dump(more), 4096).unwrap(), Sums::new(), "{more:?}");
    }
    let data_only = sums(&server.dump(&["--section=data"]), 4096).unwrap();
    assert_eq!(&data_only, full);
    let through_root = sums(&server.dump(&["--load-via-partition-root"]), 4096).unwrap();
    assert_eq!(&through_root, full);
    let one = sums(&server.dump(&["-t", r#""s.p"."we.ird ""name""""#]), 4096).unwrap();
    assert_eq!(names(&one), [r#""s.p"."we.ird ""name""""#]);
    assert!(matches!(sums(&server.dump(&["--inserts"]), 4096), Err(ArchiveError::NotCopyText(_))));
    let compressed = server.run("pg_dump", &["-Fc", "-Z1", "-d", "postgres"]);
    assert!(matches!(sums(&compressed, 4096), Err(ArchiveError::Compressed)));
    let plain = server.run("pg_dump", &["-Fp", "-d", "postgres"]);
    assert!(matches!(sums(&plain, 4096), Err(ArchiveError::NotAnArchive)));
}

/// Writes archives as each format version does, with what real servers here do not give: other versions, any chunks.
struct Writer {
    bytes: Vec<u8>,
    minor: u8,
}

impl Writer {
    fn new(minor: u8, entries: i32) -> Self {
        let mut writer = Self { bytes: b"PGDMP".to_vec(), minor };
        writer.bytes.extend([1, minor, 0, 4, 8, 1]);
        match minor {
            ..15 => writer.integer(0),
            _ => writer.bytes.push(0),
        }
        (0..7).for_each(|part| writer.integer(part));
        ["database", "18.1", "18.1"].into_iter().for_each(|text| writer.text(Some(text)));
        writer.integer(entries);
        writer
    }

    fn integer(&mut self, value: i32) {
        self.bytes.push(u8::from(value < 0));
        self.bytes.extend(value.unsigned_abs().to_le_bytes());
    }

    fn text(&mut self, text: Option<&str>) {
        match text {
            None => self.integer(-1),
            Some(text) => {
                self.integer(i32::try_from(text.len()).unwrap());
                self.bytes.extend(text.as_bytes());
            }
        }
    }

    fn entry(&mut self, id: i32, kind: &str, name: &str, copy: Option<&str>) {
        self.integer(id);
        self.integer(i32::from(copy.is_some()));
        for text in ["1259", "16384", name, kind] {
            self.text(Some(text));
        }
        self.integer(3);
        for text in [Some("definition"), Some(""), copy, Some("public"), None, Some("heap")] {
            self.text(text);
        }
        if self.minor >= 16 {
            self.integer(i32::from(b'r'));
        }
        for text in [Some("owner"), Some("false"), Some("12"), Some("13"), None] {
            self.text(text);
        }
        self.bytes.push(1);
        self.bytes.extend([0; 8]);
    }

    fn block(&mut self, id: i32, chunks: &[&[u8]]) {
        self.bytes.push(1);
        self.integer(id);
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            self.integer(i32::try_from(chunk.len()).unwrap());
            self.bytes.extend(*chunk);
        }
        self.integer(0);
    }
}

fn archive_of(minor: u8, text: &[u8], chunk: usize) -> Vec<u8> {
    let mut writer = Writer::new(minor, 2);
    writer.entry(7, "FUNCTION", "f()", None);
    writer.entry(8, "TABLE DATA", "t", Some("COPY public.t (a) FROM stdin;\n"));
    writer.block(8, &text.chunks(chunk).collect::<Vec<_>>());
    writer.bytes
}

proptest! {
    #[test]
    fn sums_do_not_depend_on_chunks_pieces_or_format_version(
        rows in prop::collection::vec("[a-z\\\\.]{0,12}", 0..40),
        chunk in 1_usize..50,
        piece in 1_usize..50,
        minor in 14_u8..=16,
    ) {
        let rows: Vec<String> = rows.into_iter().filter(|row| row != "\\.").collect();
        let mut expected = TableSum::default();
        let mut text = Vec::new();
        for row in &rows {
            expected.add_row(row.as_bytes());
            text.extend(row.bytes().chain([b'\n']));
        }
        text.extend(b"\\.\n\n\n");
        let found = sums(&archive_of(minor, &text, chunk), piece).unwrap();
        prop_assert_eq!(found, Sums::from([(QualifiedTable::new("public", "t"), expected)]));
    }

    #[test]
    fn any_bytes_after_the_magic_are_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for head in [&b""[..], b"PGDMP", b"PGDMP\x01\x0e\x00\x04\x08\x01", &archive_of(16, b"\\.\n", 9)[..100]] {
            prop_assert!(sums(&[head, &bytes].concat(), 64).is_err());
        }
    }
}

#[test]
fn lengths_are_not_believed() {
    let mut writer = Writer::new(16, i32::MAX);
    writer.entry(8, "TABLE DATA", "t", Some("COPY"));
    writer.integer(9);
    writer.integer(1);
    writer.integer(i32::MAX);
    let error = sums(&writer.bytes, usize::MAX).unwrap_err();
    assert!(matches!(error, ArchiveError::Truncated(_)), "{error}");
    let mut writer = Writer::new(16, 1);
    writer.integer(8);
    writer.integer(1);
    ["1", "2"].into_iter().for_each(|text| writer.text(Some(text)));
    writer.integer(i32::MAX);
    assert!(matches!(sums(&writer.bytes, usize::MAX).unwrap_err(), ArchiveError::Corrupt(_)));
}

#[test]
fn rows_without_their_end_mark_and_tables_without_their_rows_are_refused() {
    assert!(sums(&archive_of(16, b"a\nb\n", 3), 64).is_err());
    assert!(sums(&archive_of(16, b"a\n\\.\nb\n", 3), 64).is_err());
    let mut writer = Writer::new(16, 1);
    writer.entry(8, "TABLE DATA", "t", Some("COPY"));
    assert!(matches!(sums(&writer.bytes, 64), Err(ArchiveError::Truncated(_))));
}

#[test]
fn versions_of_other_clients_are_named() {
    let mut archive = archive_of(16, b"\\.\n", 9);
    archive[6] = 17;
    let error = sums(&archive, 64).unwrap_err();
    assert_eq!(error.to_string(), "read an archive of format 1.17: formats 1.14 to 1.16 are known");
}
