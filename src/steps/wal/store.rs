//! Stores one WAL file in several repositories at once.
//!
//! Object first, record last. Three things must not go wrong: a name whose record says other content is refused; an
//! object that a dead push left under the plain name is never taken for ours, so that ours then gets a name of its own;
//! and a record that turns out to be there after all may be our own, whose answer was lost.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt as _, join_all, try_join};
use tokio::task::spawn_blocking;

use super::WalInput;
use crate::catalog::names::wal as names;
use crate::catalog::wal::WalRecord;
use crate::catalog::{CatalogError, Identity, Repository};
use crate::host::failpoint::pass;
use crate::host::{FailPoint, FileSource, Source as _, SourceError};
use crate::model::digest::{Digest, Hasher};
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::lsn::SystemId;
use crate::model::wal::WalFile;
use crate::pipeline::PipelineError;
use crate::pipeline::openpgp::Recipients;
use crate::pipeline::segment::{Packed, Packing, Recipe};
use crate::storage::{PutOptions, StorageError, StorageErrorKind, Upload};

/// How WAL is stored.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// zstd level.
    pub level: i32,
    /// zstd's threads beside the file's own.
    pub helpers: u32,
    /// Who can read it; nobody in particular when absent: not encrypted.
    pub recipients: Option<Recipients>,
    /// Whose it is.
    pub owner: Owner,
}

/// The cluster that repositories are claimed for before anything is stored in them. Remembers which it has claimed.
#[derive(Clone, Debug, Default)]
pub struct Owner {
    /// The cluster's name.
    pub cluster: String,
    /// System identifiers that it had before.
    pub former: Vec<SystemId>,
    claimed: Arc<Mutex<BTreeSet<(String, SystemId)>>>,
}

impl Owner {
    /// The cluster called `cluster`, which was the `former` systems before.
    pub fn new(cluster: &str, former: &[SystemId]) -> Self {
        Self { cluster: cluster.to_owned(), former: former.to_vec(), claimed: Arc::default() }
    }

    /// Errors unless `repository` is, or becomes, this cluster's.
    async fn claim(&self, repository: &Repository, system: SystemId, now: DateTime<Utc>) -> Result<(), CatalogError> {
        let place = (repository.storage.place(), system);
        if self.claimed.lock().unwrap_or_else(PoisonError::into_inner).contains(&place) {
            return Ok(());
        }
        repository.claim(&Identity::new(&self.cluster, Some(system), now), &self.former).await?;
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).insert(place);
        Ok(())
    }
}

/// How a file came to be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was stored now.
    Stored,
    /// It was there already, with the same content.
    AlreadyThere,
}

/// What became of the file in each repository, by the repository's name.
pub type Verdicts = Vec<(String, Result<Standing, Failure>)>;

/// Stores `input` in each of `repositories`. One that fails does not hold up the others.
pub async fn store(
    input: &WalInput,
    repositories: &[Repository],
    options: &StoreOptions,
    now: DateTime<Utc>,
) -> Verdicts {
    let push = Push { input, options, now };
    let packing = push.pack();
    let system = input.directory.system_identifier;
    let looked = join_all(repositories.iter().map(|repository| async move {
        let claim = options.owner.claim(repository, system, now);
        try_join(claim, repository.wal_record(input.file, now)).await.map(|((), record)| record)
    }));
    let looked = looked.await;
    let (mut verdicts, mut wanting, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for (repository, record) in repositories.iter().zip(looked) {
        match record {
            Ok(None) => wanting.push(repository),
            Ok(Some(record)) => known.push((repository, record)),
            Err(error) => verdicts.push((repository.name.clone(), Err(error.into()))),
        }
    }
    if !wanting.is_empty() {
        verdicts.extend(push.ship(packing, &wanting).await);
    }
    for (repository, record) in known {
        verdicts.push((repository.name.clone(), push.compare(repository, &record).await));
    }
    verdicts
}

/// One file on its way.
struct Push<'a> {
    input: &'a WalInput,
    options: &'a StoreOptions,
    now: DateTime<Utc>,
}

/// What is known of an upload after its end.
type Uploaded = Result<(), StorageError>;

impl Push<'_> {
    fn file(&self) -> WalFile {
        self.input.file
    }

    fn pack(&self) -> Result<Packing, Failure> {
        let level = self.file().is_segment_sized().then_some(self.options.level);
        let StoreOptions { helpers, recipients, .. } = self.options.clone();
        let source = self.input.open()?;
        Ok(Packing::start(Box::new(source), Recipe { level, helpers, recipients })?)
    }

    fn key(&self, spare: Option<u32>) -> Result<ObjectKey, Failure> {
        Ok(names::object(self.file(), self.options.recipients.is_some(), spare)?)
    }

    /// Ships the file to repositories that have no record of it.
    async fn ship(&self, packing: Result<Packing, Failure>, wanting: &[&Repository]) -> Verdicts {
        let named = |failure: &Failure| -> Verdicts {
            wanting.iter().map(|repository| (repository.name.clone(), Err(failure.again()))).collect()
        };
        let shipped = match (packing, self.key(None)) {
            (Ok(packing), Ok(key)) => upload(packing, wanting, &key).await.map(|shipped| (shipped, key)),
            (Err(failure), _) | (_, Err(failure)) => return named(&failure),
        };
        let ((packed, uploads), key) = match shipped {
            Ok(shipped) => shipped,
            Err(error) => return named(&error.into()),
        };
        let finished = wanting.iter().zip(uploads).map(|(repository, uploaded)| {
            let record = self.record(&packed, &key);
            async move { (repository.name.clone(), self.settle(repository, uploaded, record).await) }
        });
        join_all(finished).await
    }

    /// Records an upload; one whose name was taken is done again under a name of its own.
    async fn settle(
        &self,
        repository: &Repository,
        uploaded: Uploaded,
        record: WalRecord,
    ) -> Result<Standing, Failure> {
        match uploaded {
            Ok(()) => self.commit(repository, record).await,
            Err(error) if error.is_exists() => self.ship_aside(repository).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The plain name holds bytes of a push that died, or that is still on its way: nobody knows what they are.
    async fn ship_aside(&self, repository: &Repository) -> Result<Standing, Failure> {
        if let Some(record) = repository.wal_record(self.file(), self.now).await? {
            return self.compare(repository, &record).await;
        }
        let key = self.key(Some(rand::random()))?;
        let (packed, mut uploads) = upload(self.pack()?, &[repository], &key).await?;
        uploads.pop().unwrap_or_else(|| Err(gone()))?;
        let standing = self.commit(repository, self.record(&packed, &key)).await?;
        if standing == Standing::Stored {
            // Our record stands, so that whoever put these bytes cannot record them any more.
            self.drop_object(repository, &self.key(None)?).await;
        }
        Ok(standing)
    }

    fn record(&self, packed: &Packed, object: &ObjectKey) -> WalRecord {
        let ((content_size, content_digest), (stored_size, stored_digest)) = (packed.content, packed.stored);
        WalRecord {
            format: WalRecord::FORMAT,
            name: self.file(),
            system_identifier: self.input.directory.system_identifier,
            object: object.clone(),
            content_size,
            content_digest,
            stored_size,
            stored_digest,
            recorded: self.now,
            written: self.input.written,
            received: self.input.received,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            ancestors: self.input.ancestors.clone(),
            more: serde_json::Map::new(),
        }
    }

    async fn commit(&self, repository: &Repository, record: WalRecord) -> Result<Standing, Failure> {
        pass(FailPoint::WalObjectPut)?;
        match repository.put_wal_record(&record, self.now).await {
            Ok(()) => {}
            Err(error) if error.is_exists() => return self.lose_to(repository, &record).await,
            Err(error) => return Err(error.into()),
        }
        pass(FailPoint::WalRecordPut)?;
        Ok(Standing::Stored)
    }

    /// Somebody recorded the file first, unless it was we ourselves and the answer was lost.
    async fn lose_to(&self, repository: &Repository, ours: &WalRecord) -> Result<Standing, Failure> {
        let Some(theirs) = repository.wal_record(self.file(), self.now).await? else {
            let message = format!("record {} in repository {}: its record came and went", self.file(), repository.name);
            return Err(Failure::new(FailureKind::Failed, message));
        };
        if theirs.object == ours.object && theirs.stored_digest == ours.stored_digest {
            return Ok(Standing::Stored);
        }
        if theirs.object == ours.object {
            // Its bytes were gone, and ours lie in their place now. What is there is what was recorded, in another cipher
            // text, or something else; neither may stay as it is.
            self.drop_object(repository, &ours.object).await;
        }
        let compared = self.compare(repository, &theirs).await;
        if theirs.object != ours.object {
            self.drop_object(repository, &ours.object).await;
        }
        compared
    }

    /// Takes away an object that no record can name. What stays behind does no harm; expiry clears it.
    async fn drop_object(&self, repository: &Repository, key: &ObjectKey) {
        // Where a store does not refuse to overwrite by itself, a record may still change under us.
        if repository.storage.features().conditional_put
            && let Err(error) = repository.storage.delete(key, None).await
        {
            tracing::debug!(%key, repository = repository.name, %error, "an object without a record stays behind");
        }
    }

    /// Whether the file is the one that `record` says; stores it anew when the recorded bytes are gone.
    fn compare<'a>(
        &'a self,
        repository: &'a Repository,
        record: &'a WalRecord,
    ) -> BoxFuture<'a, Result<Standing, Failure>> {
        self.compared(repository, record).boxed()
    }

    async fn compared(&self, repository: &Repository, record: &WalRecord) -> Result<Standing, Failure> {
        let source = self.input.open()?;
        let digested = spawn_blocking(move || digest(source)).await;
        let digested = digested.map_err(|error| Failure::new(FailureKind::Failed, "digest the file").because(error))?;
        let (size, digest) = digested.map_err(|error| {
            Failure::new(FailureKind::Failed, format!("read {}", self.input.path.display())).because(error)
        })?;
        if (record.content_size, record.content_digest) != (size, digest) {
            return Err(self.conflict(repository, record, digest));
        }
        match repository.storage.head(&record.object).await {
            Ok(meta) if meta.size == record.stored_size => Ok(Standing::AlreadyThere),
            Ok(meta) => Err(self.damaged(repository, record, meta.size)),
            Err(error) if error.is_missing() => self.store_again(repository).await,
            Err(error) => Err(error.into()),
        }
    }

    /// The recorded bytes are gone and this is the same file: what is lost is its record only.
    async fn store_again(&self, repository: &Repository) -> Result<Standing, Failure> {
        let key = self.key(Some(rand::random()))?;
        let (packed, mut uploads) = upload(self.pack()?, &[repository], &key).await?;
        uploads.pop().unwrap_or_else(|| Err(gone()))?;
        repository.remove_wal_record(self.file()).await?;
        self.commit(repository, self.record(&packed, &key)).await
    }

    fn conflict(&self, repository: &Repository, record: &WalRecord, ours: Digest) -> Failure {
        let message = format!(
            "archive {}: repository {} holds another file of this name (SHA-256 {} of system {}, stored {}; this one \
             has {ours} of system {})",
            self.file(),
            repository.name,
            record.content_digest,
            record.system_identifier,
            record.recorded.format("%Y-%m-%dT%H:%M:%SZ"),
            self.input.directory.system_identifier,
        );
        let hint = match self.options.owner.former.contains(&record.system_identifier) {
            true => {
                "Nothing is overwritten, and the server keeps its log until it is archived. That system is the one that this \
                 cluster was before pg_upgrade; its timelines are in the way of the new one's: give the cluster another \
                 [repository.NAME] with a url of its own, and make a base backup there at once."
            }
            false => {
                "Nothing is overwritten. Two servers write the same timeline: find out which is the primary, and turn archiving \
                 off on the other; a restored copy must be promoted to a timeline of its own."
            }
        };
        Failure::new(FailureKind::RefusedForSafety, message).hint(hint)
    }

    fn damaged(&self, repository: &Repository, record: &WalRecord, size: u64) -> Failure {
        let message = format!(
            "believe {} in repository {}: it has {size} bytes, {} were recorded",
            record.object, repository.name, record.stored_size
        );
        Failure::new(FailureKind::Integrity, message)
            .hint("Look at the object; delete it if it is damaged, and PostgreSQL's next try stores the file anew.")
    }
}

/// Uploads everything that `packing` gives to all of `repositories`, under `key`. Errors when the file could not be read
/// or packed; what became of each upload is told for each.
pub(super) async fn upload(
    mut packing: Packing,
    repositories: &[&Repository],
    key: &ObjectKey,
) -> Result<(Packed, Vec<Uploaded>), PipelineError> {
    let options = PutOptions::default();
    let begun = repositories.iter().map(|repository| repository.storage.upload(key, &options));
    let mut uploads: Vec<Result<Box<dyn Upload>, StorageError>> = join_all(begun).await;
    while let Some(piece) = packing.next().await {
        join_all(uploads.iter_mut().map(|upload| write(upload, piece.clone()))).await;
    }
    let packed = packing.finish().await?;
    let committing = uploads.into_iter().map(|upload| {
        let (proof, (size, digest)) = (packed.proof.clone(), packed.stored);
        async move { upload?.commit(proof, digest, size).await.map(|_| ()) }
    });
    let uploads = join_all(committing).await;
    Ok((packed, uploads))
}

/// Writes to an upload; one that fails is given up, and the others go on.
async fn write(upload: &mut Result<Box<dyn Upload>, StorageError>, piece: Bytes) {
    if let Ok(open) = upload
        && let Err(error) = open.write(piece).await
    {
        *upload = Err(error);
    }
}

fn digest(mut source: FileSource) -> Result<(u64, Digest), SourceError> {
    let (mut block, mut hasher) = (vec![0; 256 << 10], Hasher::default());
    loop {
        let count = source.read(&mut block).map_err(|error| SourceError::io("read the WAL file", error))?;
        if count == 0 {
            break;
        }
        hasher.update(&block[..count]);
    }
    let proof = Box::new(source).finish()?;
    Ok((proof.bytes(), hasher.finish()))
}

fn gone() -> StorageError {
    StorageError::new(StorageErrorKind::Other, "store the WAL file: the upload is gone")
}
