//! Proves one archived row from the seal of its partition: the archive is read once, its rows are followed from hash to hash,
//! and the audit path to the signed root is worked out. A proof that was made once is checked without archive and keys.
//!
//! Needs no database: everything is in the repositories. Holds 32 bytes for each row of the partition while it reads.

use std::collections::HashMap;
use std::io::Read as _;

use memchr::memchr;

use crate::catalog::{Artifact, Inventory, Repository, StoredSeal, Unsigned};
use crate::host::Source;
use crate::model::audit::CHAIN;
use crate::model::audit::merkle::{self, Tree};
use crate::model::audit::profile::Profiles;
use crate::model::audit::proof::{ArchivedRow, FORMAT, Proof, RowReader, to_hex};
use crate::model::audit::seal::{Seal, Stretch};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::manifest::{ObjectRecord, ObjectRole};
use crate::ops::Setting;
use crate::pipeline::archive::{ArchiveReader, Event};
use crate::pipeline::fetch;
use crate::pipeline::openpgp::DecryptionKeys;
use crate::steps::thaw;

/// Bytes read at once.
const PIECE: usize = 1 << 18;

/// What is to be proven.
#[derive(Clone, Debug)]
pub struct Options {
    /// The row's id, a uuid.
    pub id: uuid::Uuid,
    /// The partition it lay in, where that is known; otherwise every sealed one is looked through, the newest first.
    pub partition: Option<String>,
}

/// What it is proven with.
#[derive(Debug)]
pub struct Doors {
    /// Where seals and archives lie.
    pub repositories: Vec<Repository>,
    /// What decrypts archives.
    pub keys: Option<DecryptionKeys>,
}

/// A row that was proven, and by which seal.
#[derive(Clone, Debug)]
pub struct Proven {
    /// The proof.
    pub proof: Proof,
    /// The seal it leads to.
    pub seal: StoredSeal,
}

/// Looks for the row in the archives of sealed partitions, and proves it.
pub async fn from_archive(options: &Options, doors: &Doors, setting: &Setting) -> Result<Proven, Failure> {
    let mut seals = seals(&doors.repositories, setting).await?;
    seals.retain(|stored| options.partition.as_ref().is_none_or(|name| stored.seal.partition.name == *name));
    if seals.is_empty() {
        let message = format!("prove row {}: no partition that it could lie in is sealed", options.id);
        return Err(Failure::new(FailureKind::NothingMatches, message)
            .hint("What is not sealed is in the log: `dbagent audit verify` verifies it there."));
    }
    for stored in seals.iter().rev() {
        setting.require_going_on("look through the next archive")?;
        setting.events.step(format!("looking for the row in the archive of {}", stored.seal.partition));
        let source = open(stored, doors, setting).await?;
        let (seal, id) = (stored.seal.clone(), options.id.into_bytes());
        let searching = tokio::task::spawn_blocking(move || search(source, &seal, id));
        let ended_badly = |error| Failure::new(FailureKind::Failed, "read the archive").because(error);
        if let Some(found) = searching.await.map_err(ended_badly)?? {
            let proof = proof_of(options, stored, found);
            proof.check(&stored.seal).map_err(|why| not_proven(&why.to_string()))?;
            return Ok(Proven { proof, seal: stored.clone() });
        }
    }
    let message = format!("prove row {}: it is in none of {} sealed partitions", options.id, seals.len());
    Err(Failure::new(FailureKind::NothingMatches, message))
}

/// Checks a proof that was made before, against the seals in the repositories.
pub async fn check(proof: Proof, repositories: &[Repository], setting: &Setting) -> Result<Proven, Failure> {
    if proof.format != FORMAT {
        let message = format!("check a proof of format {}: this version reads {FORMAT}", proof.format);
        return Err(Failure::new(FailureKind::Usage, message));
    }
    let seals = seals(repositories, setting).await?;
    let Some(seal) = seals.into_iter().find(|stored| stored.digest == proof.seal) else {
        let message = format!("check the proof of row {}: no repository has the seal {}", proof.id, proof.seal);
        return Err(Failure::new(FailureKind::NothingMatches, message));
    };
    proof.check(&seal.seal).map_err(|why| not_proven(&why.to_string()))?;
    Ok(Proven { proof, seal })
}

fn not_proven(why: &str) -> Failure {
    Failure::new(FailureKind::Integrity, format!("prove the row: {why}"))
        .hint("The row, the path or the archive is not what was sealed.")
}

/// Every seal that can be believed, by number.
async fn seals(repositories: &[Repository], setting: &Setting) -> Result<Vec<StoredSeal>, Failure> {
    let mut all: Vec<StoredSeal> = Vec::new();
    for repository in repositories {
        let read = repository.seals(CHAIN, setting.clock.now()).await?;
        for fault in &read.faults {
            setting.events.note(format!("in repository {}: {fault}", repository.name));
        }
        all.extend(read.stored);
    }
    all.sort_by_key(|stored| (stored.seal.number, stored.digest));
    all.dedup_by_key(|stored| stored.digest);
    Ok(all)
}

/// The rows of a sealed partition, from the first copy that can be read.
async fn open(stored: &StoredSeal, doors: &Doors, setting: &Setting) -> Result<Box<dyn Source>, Failure> {
    let table = &stored.seal.partition;
    let mut last = None;
    for copy in &stored.seal.archive.copies {
        let Some(repository) = doors.repositories.iter().find(|each| each.name == copy.repository) else { continue };
        match open_in(stored, &copy.stored_digest, repository, doors, setting).await {
            Ok(source) => return Ok(source),
            Err(failure) => {
                setting.events.note(format!(
                    "the archive of {table} in {}: {}",
                    repository.name,
                    with_causes(&failure)
                ));
                last = Some(failure);
            }
        }
    }
    Err(last.unwrap_or_else(|| {
        let message = format!("open the archive of {table}: none of the repositories that have it is configured");
        Failure::new(FailureKind::NothingMatches, message)
    }))
}

async fn open_in(
    stored: &StoredSeal,
    digest: &Digest,
    repository: &Repository,
    doors: &Doors,
    setting: &Setting,
) -> Result<Box<dyn Source>, Failure> {
    let id = stored.seal.archive.id;
    let now = setting.clock.now();
    let inventory = Inventory::read(repository, Unsigned::Refuse, now).await?;
    let Some(artifact) = inventory.artifacts.into_iter().find(|artifact| artifact.manifest.id == id) else {
        return Err(Failure::new(FailureKind::NothingMatches, format!("find the artifact {id}: it is not there")));
    };
    let object = data_of(&artifact, digest)?;
    if artifact.manifest.source.encoding != "UTF8" {
        let message = format!("read {}: it is in {}", object.key, artifact.manifest.source.encoding);
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("Hashes are over UTF-8: restore the partition into a scratch database and verify it there."));
    }
    thaw::thaw(repository, &artifact, setting.clock.as_ref(), &setting.events, &setting.stop).await?;
    let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    Ok(fetch::open(download, object, doors.keys.as_ref()).await?)
}

/// The object with the rows, which must be the one that was sealed.
fn data_of<'a>(artifact: &'a Artifact, digest: &Digest) -> Result<&'a ObjectRecord, Failure> {
    let data = artifact.manifest.objects.iter().find(|object| object.role == ObjectRole::Data);
    data.filter(|object| object.stored_digest == *digest).ok_or_else(|| {
        let message = format!("read {}: it is not the archive that was sealed", artifact.name);
        Failure::new(FailureKind::Integrity, message)
    })
}

/// A row, where it stands, and the hashes of all leaves.
struct Found {
    row: ArchivedRow,
    hash: Digest,
    index: usize,
    seq: i64,
    leaves: Vec<Digest>,
}

fn proof_of(options: &Options, stored: &StoredSeal, found: Found) -> Proof {
    Proof {
        format: FORMAT,
        id: options.id.to_string(),
        partition: stored.seal.partition.to_string(),
        seq: found.seq,
        index: found.index as u64,
        row: to_hex(&found.row.entry.canonical_bytes()),
        hash: found.hash,
        path: merkle::path(&found.leaves, found.index).unwrap_or_default(),
        seal: stored.digest,
    }
}

/// Reads the archive to its end: nothing of it counts before its digest has agreed.
fn search(mut source: Box<dyn Source>, seal: &Seal, id: [u8; 16]) -> Result<Option<Found>, Failure> {
    let (follow, profiles) = (Follow::new(&seal.stretches), seal.profiles.clone());
    let mut search = Search { id, follow, profiles, rows: None, line: Vec::new(), found: None };
    let (mut reader, mut buffer) = (ArchiveReader::default(), vec![0; PIECE]);
    loop {
        let read = source.read(&mut buffer).map_err(|error| fetch::failure(error, "read the archive"))?;
        if read == 0 {
            break;
        }
        let mut input = &buffer[..read];
        while let Some(event) = reader.next(&mut input).map_err(malformed)? {
            match event {
                Event::TableBegin(begun) => search.rows = RowReader::new(&begun.copy_statement),
                Event::Rows(bytes) => search.rows(bytes)?,
                _ => {}
            }
        }
    }
    reader.finish().map_err(malformed)?;
    source.finish().map_err(|error| Failure::new(FailureKind::Integrity, "read the archive").because(error))?;
    search.finish(seal)
}

fn malformed(error: crate::pipeline::archive::ArchiveError) -> Failure {
    Failure::new(FailureKind::Integrity, "read the archive").because(error)
}

struct Search {
    id: [u8; 16],
    follow: Follow,
    profiles: Profiles,
    rows: Option<RowReader>,
    line: Vec<u8>,
    found: Option<ArchivedRow>,
}

impl Search {
    fn rows(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while let Some(end) = memchr(b'\n', bytes) {
            self.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            self.row(&line)?;
        }
        self.line.extend_from_slice(bytes);
        Ok(())
    }

    fn row(&mut self, line: &[u8]) -> Result<(), Failure> {
        if line.is_empty() || line == b"\\." {
            return Ok(());
        }
        let not_a_row = || not_proven("the archive has a row that is none of the log");
        let row = self.rows.as_ref().and_then(|rows| rows.read(line)).ok_or_else(not_a_row)?;
        let hash = row.hash.ok_or_else(not_a_row)?;
        let before = row.entry.previous_hash.as_ref().map(|text| text.parse()).transpose();
        let before = before.map_err(|_| not_a_row())?;
        self.follow.take(before.filter(|before| Some(*before) != self.profiles.genesis()), hash);
        if row.entry.id == self.id {
            if self.profiles.hash_of(&row.entry.canonical_bytes()) != Ok(hash) {
                return Err(not_proven("its content is not what was hashed"));
            }
            self.found = Some(row);
        }
        Ok(())
    }

    fn finish(self, seal: &Seal) -> Result<Option<Found>, Failure> {
        let places = self.follow.finish(&seal.stretches)?;
        let mut tree = Tree::default();
        places.iter().for_each(|(_, hash)| tree.push(merkle::leaf(hash.as_bytes())));
        if tree.root() != seal.root {
            return Err(not_proven("the archive's rows are not those that were sealed"));
        }
        let Some(row) = self.found else { return Ok(None) };
        let at = places.iter().position(|(_, hash)| Some(*hash) == row.hash);
        let Some((index, (seq, hash))) = at.and_then(|at| Some((at, *places.get(at)?))) else {
            return Err(not_proven("it is in the archive and not in the chain"));
        };
        let leaves = places.iter().map(|(_, hash)| merkle::leaf(hash.as_bytes())).collect();
        Ok(Some(Found { row, hash, index, seq, leaves }))
    }
}

/// Brings rows that come in the order in which they lay into that of their places, by what each says of the row before it.
struct Follow {
    /// The stretch that goes on after a hash.
    tails: HashMap<Option<Digest>, usize>,
    /// Rows whose predecessor has not come.
    waiting: HashMap<Option<Digest>, Digest>,
    hashes: Vec<Vec<Digest>>,
}

impl Follow {
    fn new(stretches: &[Stretch]) -> Self {
        let tails = stretches.iter().enumerate().map(|(at, stretch)| (stretch.after, at)).collect();
        Self { tails, waiting: HashMap::new(), hashes: vec![Vec::new(); stretches.len()] }
    }

    fn take(&mut self, before: Option<Digest>, hash: Digest) {
        let Some(at) = self.tails.remove(&before) else {
            self.waiting.insert(before, hash);
            return;
        };
        let mut tail = hash;
        self.hashes[at].push(tail);
        while let Some(next) = self.waiting.remove(&Some(tail)) {
            self.hashes[at].push(next);
            tail = next;
        }
        self.tails.insert(Some(tail), at);
    }

    /// Places and hashes, in order. Errors unless every stretch came whole, and nothing else.
    fn finish(self, stretches: &[Stretch]) -> Result<Vec<(i64, Digest)>, Failure> {
        let whole = |(stretch, hashes): (&Stretch, &Vec<Digest>)| {
            i64::try_from(hashes.len()) == Ok(stretch.last - stretch.first + 1) && hashes.last() == Some(&stretch.tail)
        };
        if !self.waiting.is_empty() || !stretches.iter().zip(&self.hashes).all(whole) {
            return Err(not_proven("the archive's rows do not follow one another as they were sealed"));
        }
        let places = stretches.iter().zip(self.hashes).flat_map(|(stretch, hashes)| (stretch.first..).zip(hashes));
        Ok(places.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::audit::counted::{digest, stretch};

    fn followed(order: &[i64], stretches: &[Stretch]) -> Option<Vec<i64>> {
        let mut follow = Follow::new(stretches);
        order.iter().for_each(|seq| follow.take((*seq > 1).then(|| digest(seq - 1)), digest(*seq)));
        let places = follow.finish(stretches).ok()?;
        assert!(places.iter().all(|(seq, hash)| digest(*seq) == *hash));
        Some(places.into_iter().map(|(seq, _)| seq).collect())
    }

    #[test]
    fn rows_come_in_any_order_and_take_their_places() {
        let stretches = [stretch(1, 4), stretch(6, 6), stretch(9, 11)];
        assert_eq!(followed(&[3, 11, 1, 6, 10, 2, 9, 4], &stretches).unwrap(), [1, 2, 3, 4, 6, 9, 10, 11]);
        for wrong in [&[1, 2, 3, 4, 6, 9, 10][..], &[1, 2, 3, 4, 5, 6, 9, 10, 11], &[1, 3, 4, 6, 9, 10, 11]] {
            assert_eq!(followed(wrong, &stretches), None, "{wrong:?}");
        }
    }
}
