//! The whole belt and its mirror: what goes in comes out, faults end in aborted uploads, and no change goes unseen.

use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::process::{Command, Stdio};
use std::sync::Arc;

use dbagent::host::{BytesSource, Complete, Source, SourceError};
use dbagent::model::digest::Digest;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::manifest::{Encoding, ObjectRecord, ObjectRole};
use dbagent::pipeline::openpgp::{DecryptionKeys, KeyPair, Profile, Recipients};
use dbagent::pipeline::store::{Destination, Flowed, Progress, Recipe, store};
use dbagent::pipeline::{PipelineError, fetch};
use dbagent::storage::{Download, StorageError, StorageErrorKind};
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio_util::sync::CancellationToken;

use super::pipeline_openpgp::{pairs, recipients};
use super::stage::gpg::Gpg;
use super::stage::uploads::{Fault, PieceDownload, Watch, destination};

const MEMBER: usize = 1 << 20;

/// Text with stretches that compress fast and stretches that compress slowly.
fn uneven(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (bytes.len() / MEMBER) % 3 {
            0 => bytes.extend(b"same row"),
            1 => bytes.extend(state.to_le_bytes()),
            _ => bytes.extend(format!("{:08x}", state >> 44).bytes()),
        }
    }
    bytes.truncate(size);
    bytes
}

fn recipe(recipients: Option<Recipients>, threads: usize) -> Recipe {
    Recipe { threads: NonZeroUsize::new(threads).unwrap(), ..Recipe::new(recipients) }
}

async fn run(source: Box<dyn Source>, recipe: Recipe, places: Vec<Destination>) -> Result<Flowed, PipelineError> {
    store(source, recipe, places, &Arc::new(Progress::default()), CancellationToken::new()).await
}

/// Stores `content` and answers the stored bytes with their record.
async fn stored(content: &[u8], recipe: Recipe) -> (Vec<u8>, ObjectRecord) {
    let (place, watch) = destination("only", Fault::None);
    let mut encoding = vec![Encoding::Sql, Encoding::Gzip];
    encoding.extend(recipe.recipients.is_some().then_some(Encoding::OpenPgp));
    let flowed = run(Box::new(BytesSource::new(content.to_vec())), recipe, vec![place]).await.unwrap();
    assert_eq!(flowed.proof.bytes(), content.len() as u64);
    let record = record(flowed.content, flowed.stored, encoding);
    (watch.see(|seen| seen.bytes.clone()), record)
}

fn record(content: (u64, Digest), stored: (u64, Digest), encoding: Vec<Encoding>) -> ObjectRecord {
    ObjectRecord {
        role: ObjectRole::Data,
        key: "full/x.gz.gpg".parse().unwrap(),
        version: None,
        content_size: content.0,
        content_digest: content.1,
        stored_size: stored.0,
        stored_digest: stored.1,
        encoding,
        storage_class: None,
        sse: None,
    }
}

fn sized(bytes: &[u8]) -> (u64, Digest) {
    (bytes.len() as u64, Digest::of(bytes))
}

/// Fetches to the end, in pieces as a store might give them.
async fn fetched(stored: &[u8], record: &ObjectRecord, keys: Option<&DecryptionKeys>) -> Result<Vec<u8>, String> {
    let download = PieceDownload::new(stored, 100_000);
    let mut source = fetch::open(download, record, keys).await.map_err(|error| error.to_string())?;
    let read = move || {
        let mut bytes = Vec::new();
        source.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        source.finish().map_err(|error| error.to_string())?;
        Ok(bytes)
    };
    tokio::task::spawn_blocking(read).await.unwrap()
}

fn keys(pair: &KeyPair) -> DecryptionKeys {
    DecryptionKeys::read(&pair.secret, None).unwrap()
}

fn gunzip(bytes: &[u8], program: &[&str]) -> Vec<u8> {
    let mut child =
        Command::new(program[0]).args(&program[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_comes_back_whatever_its_size() {
    let pairs = pairs(2);
    for size in [0, 1, MEMBER - 1, MEMBER, MEMBER + 1, 5 * MEMBER + 17] {
        let content = uneven(size);
        for recipients in [None, Some(recipients(&pairs, Profile::Gnupg))] {
            let keys = recipients.is_some().then(|| keys(&pairs[1]));
            let (bytes, record) = stored(&content, recipe(recipients, 3)).await;
            assert_eq!((record.stored_size, record.stored_digest), sized(&bytes));
            assert_eq!((record.content_size, record.content_digest), sized(&content));
            fetch::verify(PieceDownload::new(&bytes, 7777), &record).await.unwrap();
            assert!(fetched(&bytes, &record, keys.as_ref()).await.unwrap() == content, "{size} bytes differ");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_keep_their_order_under_uneven_threads_and_stock_gunzip_reads_them() {
    let content = uneven(24 * MEMBER + 5);
    let (bytes, _) = stored(&content, recipe(None, 7)).await;
    assert!(gunzip(&bytes, &["gunzip", "-c"]) == content, "gunzip reads something else");
    let python = "import gzip,sys; sys.stdout.buffer.write(gzip.decompress(sys.stdin.buffer.read()))";
    assert!(gunzip(&bytes, &["python3", "-c", python]) == content, "Python reads something else");
    let (empty, _) = stored(b"", recipe(None, 2)).await;
    assert_eq!(gunzip(&empty, &["gunzip", "-c"]), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_gpg_and_gunzip_read_an_artifact() {
    let pairs = pairs(2);
    let content = uneven(9 * MEMBER + 3);
    let (bytes, _) = stored(&content, recipe(Some(recipients(&pairs, Profile::Gnupg)), 2)).await;
    for pair in &pairs {
        let gpg = Gpg::new();
        gpg.import(&pair.secret);
        let decrypted = gpg.run(&["--decrypt"], &bytes);
        assert!(gunzip(&decrypted, &["gunzip", "-c"]) == content, "{} reads something else", pair.fingerprint);
    }
}

/// A source that gives so many bytes, which do not compress, and then ends as told.
struct Scripted {
    noise: Vec<u8>,
    left: usize,
    end: End,
}

#[derive(Clone, Copy)]
enum End {
    ReadFails,
    ExitsBadly,
    Never,
}

impl Read for Scripted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = match self.end {
            End::Never => usize::MAX,
            _ => self.left,
        };
        let count = buffer.len().min(most).min(self.noise.len());
        buffer[..count].copy_from_slice(&self.noise[..count]);
        self.left = self.left.saturating_sub(count);
        match (count, self.end) {
            (0, End::ReadFails) => Err(io::Error::other("the pipe broke")),
            _ => Ok(count),
        }
    }
}

impl Source for Scripted {
    fn finish(self: Box<Self>) -> Result<Complete, SourceError> {
        Err(SourceError::new("pg_dump exited with status 1"))
    }
}

fn scripted(left: usize, end: End) -> Box<dyn Source> {
    let mut noise = vec![0; 64 << 10];
    rand::fill(&mut noise[..]);
    Box::new(Scripted { noise, left, end })
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_source_that_ends_badly_leaves_only_aborted_uploads() {
    for end in [End::ReadFails, End::ExitsBadly] {
        for size in [0, 100, MEMBER, 6 * MEMBER] {
            let (places, watches): (Vec<_>, Vec<_>) =
                ["a", "b"].map(|name| destination(name, Fault::None)).into_iter().unzip();
            let Err(error) = run(scripted(size, end), recipe(None, 2), places).await else { panic!("it was stored") };
            assert!(matches!(error, PipelineError::Source(_)), "{error}");
            assert!(watches.iter().all(aborted_uncommitted));
        }
    }
}

fn aborted_uncommitted(watch: &Watch) -> bool {
    watch.see(|seen| seen.aborted && seen.committed.is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_is_no_archive_is_refused_when_rows_are_to_be_summed() {
    let (place, watch) = destination("only", Fault::None);
    let recipe = Recipe { rows: true, ..recipe(None, 2) };
    let result = run(Box::new(BytesSource::new(uneven(3 * MEMBER))), recipe, vec![place]).await;
    assert!(matches!(result.err().unwrap(), PipelineError::Archive(_)));
    assert!(aborted_uncommitted(&watch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_fails_or_stalls_is_given_up_without_losing_the_others() {
    let content = uneven(24 * MEMBER);
    for fault in
        [Fault::FailAfter(0), Fault::FailAfter(3 * MEMBER), Fault::StallAfter(0), Fault::StallAfter(3 * MEMBER)]
    {
        let (bad, bad_watch) = destination("bad", fault);
        let (good, good_watch) = destination("good", Fault::None);
        let flowed = run(Box::new(BytesSource::new(content.clone())), recipe(None, 2), vec![bad, good]).await.unwrap();
        assert!(aborted_uncommitted(&bad_watch), "the fault did not fire");
        let mut results = flowed.destinations.into_iter();
        assert!(matches!(results.next().unwrap(), (name, Err(_)) if name == "bad"));
        let (name, upload) = results.next().unwrap();
        upload.unwrap().commit(flowed.proof, flowed.stored.1, flowed.stored.0).await.unwrap();
        assert_eq!(name, "good");
        good_watch.see(|seen| {
            assert_eq!(sized(&seen.bytes), flowed.stored);
            assert!(seen.largest_piece <= MEMBER && !seen.aborted);
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_destination_fails_the_source_is_left_and_all_are_told() {
    let (full, _) = destination("full", Fault::FailAfter(MEMBER));
    let (stuck, _) = destination("stuck", Fault::StallAfter(MEMBER));
    let error = run(scripted(0, End::Never), recipe(None, 2), vec![full, stuck]).await.err().unwrap();
    let PipelineError::NoDestination(errors) = error else { panic!("{error}") };
    assert_eq!(errors.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["full", "stuck"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_aborts_even_an_upload_that_hangs() {
    let (mut stuck, watch) = destination("stuck", Fault::StallAfter(MEMBER));
    stuck.stall_timeout = std::time::Duration::from_secs(3600);
    let (progress, stop) = (Arc::new(Progress::default()), CancellationToken::new());
    let pairs = pairs(1);
    let recipe = recipe(Some(recipients(&pairs, Profile::Gnupg)), 2);
    let running = tokio::spawn({
        let (progress, stop) = (progress.clone(), stop.clone());
        async move { store(scripted(0, End::Never), recipe, vec![stuck], &progress, stop).await.err() }
    });
    while watch.see(|seen| seen.bytes.is_empty()) {
        tokio::task::yield_now().await;
    }
    stop.cancel();
    assert!(matches!(running.await.unwrap(), Some(PipelineError::Stopped)));
    assert!(aborted_uncommitted(&watch));
    assert!(progress.bytes() > 0 && progress.stored() > 0);
}

/// Peak resident memory of this process, in MiB.
fn peak_memory() -> u64 {
    crate::stage::agent::peak_memory(std::process::id()).unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn f20_memory_stays_bounded_whatever_the_size() {
    let pairs = pairs(1);
    let grown_by = async |size: usize| {
        let before = peak_memory();
        let recipe = recipe(Some(recipients(&pairs, Profile::Gnupg)), 4);
        let (place, watch) = destination("only", Fault::ForgetUntil(size));
        let result = run(scripted(0, End::Never), recipe, vec![place]).await;
        assert!(matches!(result.err().unwrap(), PipelineError::NoDestination(_)));
        assert!(watch.see(|seen| seen.taken) >= size);
        peak_memory() - before
    };
    let (first, then) = (grown_by(100 * MEMBER).await, grown_by(400 * MEMBER).await);
    assert!(first <= 80 && then <= 16, "{first} MiB, then {then} MiB more for four times the size");
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_every_byte_changed_in_an_artifact_is_found() {
    let pairs = pairs(1);
    let (bytes, record) = stored(&uneven(1500), recipe(Some(recipients(&pairs, Profile::Gnupg)), 1)).await;
    let keys = keys(&pairs[0]);
    let (mut damaged, mut found) = (bytes.clone(), 0);
    for at in 0..bytes.len() {
        damaged[at] ^= 1 << (at % 8);
        found += usize::from(fetched(&damaged, &record, Some(&keys)).await.is_err());
        damaged[at] = bytes[at];
    }
    assert_eq!(found, bytes.len());
    assert!(fetched(&damaged, &record, Some(&keys)).await.is_ok(), "the test damages more than it says");
}

/// Gives the first half of some bytes and then only errors.
struct BreaksOff(Option<Vec<u8>>);

#[async_trait::async_trait]
impl Download for BreaksOff {
    fn size(&self) -> u64 {
        u64::MAX
    }

    async fn next(&mut self) -> Result<Option<bytes::Bytes>, StorageError> {
        match self.0.take() {
            Some(half) => Ok(Some(half.into())),
            None => Err(StorageError::new(StorageErrorKind::Transient, "the connection is gone")),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_a_download_that_breaks_off_is_no_damage() {
    let pairs = pairs(1);
    let (bytes, record) = stored(&uneven(20 << 20), recipe(Some(recipients(&pairs, Profile::Gnupg)), 1)).await;
    let keys = keys(&pairs[0]);
    let read = async |download: Box<dyn Download>| -> Failure {
        let mut source = match fetch::open(download, &record, Some(&keys)).await {
            Ok(source) => source,
            Err(error) => return error.into(),
        };
        let read = tokio::task::spawn_blocking(move || std::io::copy(&mut source, &mut std::io::sink()));
        fetch::failure(read.await.unwrap().unwrap_err(), "read it")
    };
    for end in [100, bytes.len() / 2, bytes.len() - 1] {
        let failure = read(Box::new(BreaksOff(Some(bytes[..end].to_vec())))).await;
        assert_eq!(failure.kind, FailureKind::Failed, "after {end} bytes: {}", failure.full_message());
    }
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    assert_eq!(read(PieceDownload::new(&damaged, 1 << 20)).await.kind, FailureKind::Integrity);
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_verification_finds_every_byte_of_64_kib_without_keys() {
    let mut bytes = uneven(64 << 10);
    let record = record(sized(b""), sized(&bytes), vec![Encoding::Gzip, Encoding::OpenPgp]);
    let mut found = 0;
    for at in 0..bytes.len() {
        bytes[at] ^= 1;
        found += usize::from(fetch::verify(PieceDownload::new(&bytes, 1 << 20), &record).await.is_err());
        bytes[at] ^= 1;
    }
    assert_eq!(found, 65_536);
    fetch::verify(PieceDownload::new(&bytes, 1 << 20), &record).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f46_truncated_extended_or_swapped_artifacts_are_found() {
    let pairs = pairs(1);
    let recipients = recipients(&pairs, Profile::Gnupg);
    let keys = keys(&pairs[0]);
    let (bytes, record) = stored(b"the rows", recipe(Some(recipients.clone()), 1)).await;
    for end in 0..bytes.len() {
        assert!(fetched(&bytes[..end], &record, Some(&keys)).await.is_err(), "cut at {end}");
        assert!(fetch::verify(PieceDownload::new(&bytes[..end], 9), &record).await.is_err(), "cut at {end}");
    }
    for more in [&b"\0"[..], b"more", &bytes] {
        let longer = [&bytes, more].concat();
        assert!(fetched(&longer, &record, Some(&keys)).await.is_err());
        assert!(fetch::verify(PieceDownload::new(&longer, 9), &record).await.is_err());
    }
    let (other, other_record) = stored(b"the rowz", recipe(Some(recipients), 1)).await;
    assert!(fetched(&other, &record, Some(&keys)).await.is_err());
    assert!(fetched(&bytes, &other_record, Some(&keys)).await.is_err());
    let lying = ObjectRecord { content_digest: other_record.content_digest, ..record.clone() };
    assert!(fetched(&bytes, &lying, Some(&keys)).await.unwrap_err().contains("digest"));
}

#[tokio::test(flavor = "multi_thread")]
async fn f48_keys_that_do_not_fit_fail_before_there_is_a_source() {
    let pairs = pairs(2);
    let (bytes, record) = stored(&uneven(MEMBER), recipe(Some(recipients(&pairs[..1], Profile::Gnupg)), 1)).await;
    let error = fetched(&bytes, &record, Some(&keys(&pairs[1]))).await.unwrap_err();
    assert!(error.contains("it needs the secret key of"), "{error}");
    let error = fetched(&bytes, &record, None).await.unwrap_err();
    assert!(error.contains("no secret key was given"), "{error}");
}

fn member(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn f42_a_bomb_is_stopped_at_the_first_byte_too_many() {
    let bomb = member(&vec![0; 200 * MEMBER]);
    assert!(bomb.len() < MEMBER);
    let before = peak_memory();
    let record = record(sized(&[0; 1000]), sized(&bomb), vec![Encoding::Gzip]);
    let error = fetched(&bomb, &record, None).await.unwrap_err();
    assert!(error.contains("goes on after its 1000 bytes"), "{error}");
    assert!(peak_memory() - before < 32, "it was unpacked");
}

#[tokio::test(flavor = "multi_thread")]
async fn f53_gzip_may_have_members_and_nothing_else() {
    let whole = [member(b"one "), member(b""), member(b"two")].concat();
    let take = async |bytes: Vec<u8>| {
        let record = record(sized(b"one two"), sized(&bytes), vec![Encoding::Gzip]);
        fetched(&bytes, &record, None).await
    };
    assert_eq!(take(whole.clone()).await.unwrap(), b"one two");
    assert!(take([&whole[..], b"garbage"].concat()).await.is_err());
    assert!(take([&whole[..], &[0; 512]].concat()).await.is_err());
    assert!(take([&whole[..], &whole[..2]].concat()).await.is_err());
    for at in 1..9 {
        let mut bytes = whole.clone();
        let place = bytes.len() - at;
        bytes[place] ^= 0x10;
        assert!(take(bytes).await.is_err(), "the trailer's byte {at} from the end was not checked");
    }
    for end in 0..whole.len() {
        assert!(take(whole[..end].to_vec()).await.is_err(), "cut at {end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings_in_an_unknown_order_are_refused() {
    let record = record(sized(b""), sized(b""), vec![Encoding::OpenPgp, Encoding::Gzip]);
    assert!(fetched(b"", &record, None).await.unwrap_err().contains("unknown in this order"));
}
