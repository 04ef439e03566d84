//! How fast the belt is, against libdeflate alone in the same run: `cargo bench --bench pipeline [-- COPY-TEXT-FILE]`.
//!
//! Prints levels with their ratios, gzip on 1, 2 and 4 threads, the whole chain into an upload that goes nowhere, and
//! the way back. Without a file it makes COPY-like text of its own. Compare ratios, not absolute times.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a benchmark measures and prints"
)]

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, Write};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::Utc;
use dbagent::host::{BytesSource, Complete, Source, SourceError};
use dbagent::model::digest::{Digest, Hasher, TableSum};
use dbagent::model::manifest::{Encoding, ObjectRecord, ObjectRole};
use dbagent::pipeline::deflate::{Encoder, Level};
use dbagent::pipeline::fetch;
use dbagent::pipeline::gzip;
use dbagent::pipeline::openpgp::{DecryptionKeys, Profile, Recipients, generate_encryption_pair};
use dbagent::pipeline::store::{Destination, Flowed, Progress, Recipe, store};
use dbagent::storage::{Download, StorageError, Stored, Upload};
use rand::{Rng, SeedableRng};
use tokio_util::sync::CancellationToken;

const MIB: usize = 1 << 20;
const SAMPLE_BYTES: usize = 96 * MIB;
/// Times the sample goes through the whole chain.
const PASSES: i32 = 8;

fn main() {
    let text = sample();
    println!("sample of {} MiB of COPY text; {} cores", text.len() / MIB, cores());
    let small = &text[..text.len().min(48 * MIB)];
    let framed = framed(small);
    let reference = zlib("zlib-rs 6 of the rows alone", small);
    zlib("zlib-rs 6 of the archive", &framed);
    levels(&framed, reference);
    threads(&framed);
    parts(small);
    let archive = Archive::write(&text);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for (name, rows, encrypted) in
        [("gzip", false, false), ("gzip, rows", true, false), ("gzip, rows, OpenPGP", true, true)]
    {
        chain(&runtime, name, &archive, rows, encrypted);
    }
    back(&runtime, &archive);
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// The file named on the command line, or made-up rows of the same kind.
fn sample() -> Vec<u8> {
    if let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) {
        let mut text = Vec::new();
        File::open(path).unwrap().take(SAMPLE_BYTES as u64).read_to_end(&mut text).unwrap();
        text.truncate(text.iter().rposition(|byte| *byte == b'\n').unwrap() + 1);
        return text;
    }
    let mut random = rand::rngs::StdRng::seed_from_u64(1);
    let words: Vec<String> =
        (0..4000).map(|_| (0..random.random_range(2..11)).map(|_| random.random_range('a'..='z')).collect()).collect();
    let mut text = String::new();
    while text.len() < SAMPLE_BYTES {
        let (id, user) = (random.random::<u128>(), (random.random::<f64>().powi(3) * 20_000.0) as u128);
        write!(
            text,
            "{id:032x}\t{:032x}\tuser.update\t10.0.{}.{}\t{{\"path\": \"/api/v1/",
            user * 7_919_777_777,
            random.random::<u8>(),
            random.random::<u8>()
        )
        .unwrap();
        for _ in 0..random.random_range(5..40) {
            let word = (random.random::<f64>().powi(2) * words.len() as f64) as usize;
            text.push_str(&words[word]);
            text.push(' ');
        }
        writeln!(
            text,
            "\"}}\t{:064x}\t2025-11-03 03:{:02}:{:02}.{:06}+00",
            random.random::<u128>(),
            random.random_range(0..60),
            random.random_range(0..60),
            random.random_range(0..1_000_000)
        )
        .unwrap();
    }
    text.into_bytes()
}

struct Cost {
    wall: Duration,
    cpu: f64,
}

/// CPU seconds of this process so far (user and system), from /proc/self/stat in ticks of 10 ms.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

fn resident(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn cost<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (start, before) = (Instant::now(), cpu());
    let result = work();
    (result, Cost { wall: start.elapsed(), cpu: cpu() - before })
}

fn rate(bytes: usize, cost: &Cost) -> String {
    let mib = bytes as f64 / 1e6;
    format!(
        "{:7.0} MB/s wall {:7.0} MB per CPU s {:6.2} CPU s",
        mib / cost.wall.as_secs_f64(),
        mib / cost.cpu.max(0.01),
        cost.cpu
    )
}

/// A yardstick; answers the compressed size. Stock zlib, which pg_dump -Z6 uses, stores 4 to 5 % more at this level.
fn zlib(name: &str, bytes: &[u8]) -> usize {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    let ((), spent) = cost(|| encoder.write_all(bytes).unwrap());
    let size = encoder.finish().unwrap().len();
    println!("{name:<34} {} ratio {:.3}", rate(bytes.len(), &spent), bytes.len() as f64 / size as f64);
    size
}

/// The encoders alone: what one core can do at each level.
fn levels(text: &[u8], reference: usize) {
    for level in 1..=7 {
        let mut encoder = Encoder::new(Level::new(level).unwrap());
        let mut output = vec![0; encoder.bound(MIB)];
        let blocks = text.chunks(MIB).enumerate();
        let (size, spent) =
            cost(|| blocks.map(|(number, block)| encoder.deflate(number, block, &mut output).unwrap()).sum::<usize>());
        println!(
            "level {level}, blocks of 1 MiB {} ratio {:.3}, {:.3} x zlib-rs 6 of the rows",
            rate(text.len(), &spent),
            text.len() as f64 / size as f64,
            size as f64 / reference as f64
        );
    }
}

fn threads(text: &[u8]) {
    for count in [1, 2, 4] {
        let (size, spent) = cost(|| {
            let (mut feeder, mut members) = gzip::belt(Level::default(), NonZeroUsize::new(count).unwrap()).unwrap();
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    let mut input = text;
                    while !input.is_empty() {
                        let mut block = feeder.block().unwrap();
                        block.fill(&mut input).unwrap();
                        feeder.push(block).unwrap();
                    }
                    feeder.finish().unwrap();
                });
                let mut size = 0;
                while let Some(member) = members.take().unwrap() {
                    size += member.len();
                }
                size
            })
        });
        println!(
            "belt, default level, {count} threads    {} ratio {:.3}",
            rate(text.len(), &spent),
            text.len() as f64 / size as f64
        );
    }
}

/// The other parts, each alone.
fn parts(text: &[u8]) {
    let ((), spent) = cost(|| {
        let mut hasher = Hasher::default();
        hasher.update(text);
        std::hint::black_box(hasher.finish());
    });
    println!("content digest                    {}", rate(text.len(), &spent));
    let (sum, spent) = cost(|| {
        let mut sum = TableSum::default();
        text.split(|byte| *byte == b'\n').for_each(|row| sum.add_row(row));
        sum
    });
    println!("row sums, {:4} bytes a row        {}", text.len() as u64 / sum.rows, rate(text.len(), &spent));
    let pair = generate_encryption_pair("bench", Profile::Rfc9580, Utc::now()).unwrap();
    let recipients = Recipients::new(&[&pair.public], &[&pair.fingerprint], Profile::Gnupg, Utc::now()).unwrap();
    let ((), spent) = cost(|| {
        let mut message = recipients.encrypt(io::sink()).unwrap();
        text.chunks(MIB / 3).for_each(|piece| message.write_all(piece).unwrap());
        message.finalize().unwrap();
    });
    println!("OpenPGP, gnupg profile            {}", rate(text.len(), &spent));
}

/// Rows as chunks of an archive.
fn framed(text: &[u8]) -> Vec<u8> {
    let mut framed = Vec::with_capacity(text.len() + text.len() / 50);
    for row in text.split_inclusive(|byte| *byte == b'\n') {
        framed.extend(integer(row.len() as i32));
        framed.extend(row);
    }
    framed
}

/// An archive on disk, as pg_dump -Fc -Z0 writes it: a chunk for each row. Read several times over as so many tables.
struct Archive {
    rows: File,
    bytes: usize,
}

impl Archive {
    fn write(text: &[u8]) -> Self {
        let mut rows = tempfile::tempfile().unwrap();
        let framed = framed(text);
        rows.write_all(&framed).unwrap();
        Self { rows, bytes: framed.len() }
    }

    fn source(&self) -> Box<dyn Source> {
        let mut head = b"PGDMP\x01\x0e\x00\x04\x08\x01".to_vec();
        (0..8).for_each(|_| head.extend(integer(0)));
        (0..3).for_each(|_| head.extend(text("15")));
        head.extend(integer(PASSES));
        for id in 1..=PASSES {
            head.extend([integer(id), integer(1)].concat());
            [b"1259", &b"1"[..], format!("t{id}").as_bytes(), b"TABLE DATA"]
                .into_iter()
                .for_each(|part| head.extend(text(std::str::from_utf8(part).unwrap())));
            head.extend(integer(3));
            ["", "", "COPY t FROM stdin;\n", "public", "", "heap", "owner", "false"]
                .into_iter()
                .for_each(|part| head.extend(text(part)));
            head.extend(integer(-1));
            head.extend([1, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        let mut parts: VecDeque<Box<dyn Read + Send>> =
            VecDeque::from([Box::new(Cursor::new(head)) as Box<dyn Read + Send>]);
        for id in 1..=PASSES {
            let mut begin = vec![1];
            begin.extend(integer(id));
            parts.push_back(Box::new(Cursor::new(begin)));
            parts.push_back(Box::new(Again { file: self.rows.try_clone().unwrap(), begun: false }));
            parts.push_back(Box::new(Cursor::new([&integer(5)[..], b"\\.\n\n\n", &integer(0)].concat())));
        }
        Box::new(Parts(parts))
    }
}

fn integer(value: i32) -> Vec<u8> {
    let mut bytes = vec![u8::from(value < 0)];
    bytes.extend(value.unsigned_abs().to_le_bytes());
    bytes
}

fn text(text: &str) -> Vec<u8> {
    [&integer(text.len() as i32)[..], text.as_bytes()].concat()
}

/// A file from its beginning.
struct Again {
    file: File,
    begun: bool,
}

impl Read for Again {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.begun {
            self.file.rewind()?;
            self.begun = true;
        }
        self.file.read(buffer)
    }
}

struct Parts(VecDeque<Box<dyn Read + Send>>);

impl Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(part) = self.0.front_mut() {
            let count = part.read(buffer)?;
            if count > 0 {
                return Ok(count);
            }
            self.0.pop_front();
        }
        Ok(0)
    }
}

impl Source for Parts {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        Box::new(BytesSource::new(Vec::new())).finish()
    }
}

/// An upload that keeps its bytes in a file, or nothing.
struct Place(Option<Arc<Mutex<File>>>);

#[async_trait]
impl Upload for Place {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        if let Some(file) = &self.0 {
            file.lock().unwrap().write_all(&bytes).unwrap();
        }
        Ok(())
    }

    async fn commit(self: Box<Self>, _: Complete, _: Digest, size: u64) -> Result<Stored, StorageError> {
        Ok(Stored { version: None, size, digest: None, read_back: false })
    }

    async fn abort(self: Box<Self>) -> Result<(), StorageError> {
        Ok(())
    }
}

fn run(runtime: &tokio::runtime::Runtime, archive: &Archive, recipe: Recipe, place: Place) -> Flowed {
    let destination =
        Destination { name: "nowhere".into(), upload: Box::new(place), stall_timeout: Duration::from_secs(60) };
    let progress = Arc::new(Progress::default());
    runtime.block_on(store(archive.source(), recipe, vec![destination], &progress, CancellationToken::new())).unwrap()
}

fn chain(runtime: &tokio::runtime::Runtime, name: &str, archive: &Archive, rows: bool, encrypted: bool) {
    let recipients = encrypted.then(|| {
        let pair = generate_encryption_pair("bench", Profile::Rfc9580, Utc::now()).unwrap();
        Recipients::new(&[&pair.public], &[&pair.fingerprint], Profile::Gnupg, Utc::now()).unwrap()
    });
    let base = resident("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let recipe = Recipe { rows, ..Recipe::new(recipients) };
    let (flowed, spent) = cost(|| run(runtime, archive, recipe, Place(None)));
    let grown = resident("VmHWM:").saturating_sub(base);
    println!(
        "{name:<33} {} ratio {:.3}, peak {grown} MiB above the {base} MiB of the benchmark",
        rate(flowed.content.0 as usize, &spent),
        flowed.content.0 as f64 / flowed.stored.0 as f64
    );
}

/// Reads a file in pieces of 1 MiB.
struct FileDownload(File);

#[async_trait]
impl Download for FileDownload {
    fn size(&self) -> u64 {
        self.0.metadata().map_or(0, |metadata| metadata.len())
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let mut piece = vec![0; MIB];
        let count = self.0.read(&mut piece).unwrap();
        piece.truncate(count);
        Ok((count > 0).then(|| piece.into()))
    }
}

fn back(runtime: &tokio::runtime::Runtime, archive: &Archive) {
    let pair = generate_encryption_pair("bench", Profile::Rfc9580, Utc::now()).unwrap();
    let recipients = Recipients::new(&[&pair.public], &[&pair.fingerprint], Profile::Gnupg, Utc::now()).unwrap();
    let keys = DecryptionKeys::read(&pair.secret, None).unwrap();
    let file = Arc::new(Mutex::new(tempfile::tempfile().unwrap()));
    let flowed = run(runtime, archive, Recipe::new(Some(recipients)), Place(Some(file.clone())));
    let record = ObjectRecord {
        role: ObjectRole::Data,
        key: "bench".parse().unwrap(),
        version: None,
        content_size: flowed.content.0,
        content_digest: flowed.content.1,
        stored_size: flowed.stored.0,
        stored_digest: flowed.stored.1,
        encoding: vec![Encoding::PgDumpCustom, Encoding::Gzip, Encoding::OpenPgp],
        storage_class: None,
        sse: None,
    };
    let download = || {
        let mut file = file.lock().unwrap().try_clone().unwrap();
        file.rewind().unwrap();
        Box::new(FileDownload(file))
    };
    let ((), spent) = cost(|| runtime.block_on(fetch::verify(download(), &record)).unwrap());
    println!("verify, of stored bytes           {}", rate(record.stored_size as usize, &spent));
    let base = resident("VmRSS:");
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let mut source = runtime.block_on(fetch::open(download(), &record, Some(&keys))).unwrap();
    let (count, spent) = cost(|| io::copy(&mut source, &mut io::sink()).unwrap());
    source.finish().unwrap();
    let grown = resident("VmHWM:").saturating_sub(base);
    println!("fetch, decrypt, gunzip, digests   {} peak {grown} MiB above", rate(count as usize, &spent));
    assert_eq!(count as usize / archive.bytes, PASSES as usize);
}
