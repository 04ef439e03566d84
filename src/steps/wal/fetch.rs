//! Fetches one WAL file from whichever repository has it whole.
//!
//! "Not there" is a proof here, not an absence of proof: PostgreSQL ends recovery on it. It takes every repository's word,
//! or that of the one which a restore was planned in; the word of one that cannot show whose it is (an empty mount point, a
//! bucket just made) counts for nothing, and a file that is there and bad is never "not there".

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};

use crate::catalog::names::wal as names;
use crate::catalog::wal::WalRecord;
use crate::catalog::{CatalogError, CatalogErrorKind, Repository};
use crate::host::{FailPoint, Incoming, reach};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::SystemId;
use crate::model::wal::{Asked, WalFile};
use crate::pipeline::openpgp::DecryptionKeys;
use crate::pipeline::segment::{Expected, forward, unpack};

/// What a fetch works with.
#[derive(Debug)]
pub struct WalDoors {
    /// Where to look, in this order.
    pub repositories: Vec<Repository>,
    /// Repositories that could not be opened: what they hold is not known.
    pub unopened: Vec<(String, Failure)>,
    /// What decrypts.
    pub keys: Option<DecryptionKeys>,
    /// The cluster whose WAL it must be.
    pub cluster: String,
    /// The systems that the cluster was before it was upgraded.
    pub former: Vec<SystemId>,
    /// Whose word counts.
    pub asked: Asked,
}

/// What came of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fetched<T> {
    /// It was there and is whole.
    There(T),
    /// No repository has it, and each has been asked.
    NotThere,
}

/// Fetches `file` for `place`, which it replaces when it is put there: its digest is right. `system` is whose it must be,
/// where known.
pub async fn fetch_file(
    file: WalFile,
    place: &Path,
    system: Option<SystemId>,
    doors: &WalDoors,
    now: DateTime<Utc>,
) -> Result<Fetched<Arrived>, Failure> {
    let begin = |_: &WalRecord| Incoming::for_place(place).map_err(|error| unwritten(place, error));
    match fetch(file, system, doors, now, begin).await? {
        Fetched::NotThere => Ok(Fetched::NotThere),
        Fetched::There(incoming) => Ok(Fetched::There(Arrived { incoming, place: place.to_owned() })),
    }
}

/// A whole file that waits to be put in its place; gone on drop.
pub struct Arrived {
    incoming: Incoming,
    place: PathBuf,
}

impl Arrived {
    /// Its size in bytes.
    pub fn size(&self) -> Result<u64, Failure> {
        self.incoming.size().map_err(|error| unwritten(&self.place, error))
    }

    /// Puts it there.
    pub fn put(self) -> Result<(), Failure> {
        let Self { incoming, place } = self;
        reach(FailPoint::WalFetched).and_then(|()| incoming.put()).map_err(|error| unwritten(&place, error))
    }
}

fn unwritten(place: &Path, error: io::Error) -> Failure {
    Failure::new(FailureKind::Failed, format!("write {}", place.display()))
        .because(error)
        .hint("Run it, and the agent, as the user that PostgreSQL runs as; look at the room that is left.")
}

async fn fetch<S: Write + Send + 'static>(
    file: WalFile,
    system: Option<SystemId>,
    doors: &WalDoors,
    now: DateTime<Utc>,
    sink: impl Fn(&WalRecord) -> Result<S, Failure>,
) -> Result<Fetched<S>, Failure> {
    let (mut silent, mut bad): (Vec<Failure>, Vec<Failure>) = (Vec::new(), Vec::new());
    let mut is_believed = false;
    for repository in &doors.repositories {
        let record = match repository.wal_record(file, now).await {
            Ok(Some(record)) if doors.is_of_another_era(&record, system) => Ok(None),
            record => record,
        };
        let tried = match record {
            Ok(None) => doors.require_ours(repository).await.map(|()| None).map_err(|failure| (failure, &mut silent)),
            Ok(Some(record)) => {
                doors.take(&record, system, repository, &sink).await.map_err(|failure| (failure, &mut bad))
            }
            Err(error) if is_silence(&error) => Err((error.into(), &mut silent)),
            Err(error) => Err((error.into(), &mut bad)),
        };
        match tried {
            Ok(Some(sink)) => return Ok(Fetched::There(sink)),
            Ok(None) => is_believed |= doors.believes(repository),
            Err((failure, failures)) => {
                tracing::warn!(%file, repository = repository.name, error = failure.full_message(), "cannot be fetched");
                failures.push(failure);
            }
        }
    }
    match (bad.into_iter().next(), is_believed, silent.into_iter().next()) {
        (Some(failure), _, _) | (None, false, Some(failure)) => Err(failure),
        (None, true, _) => Ok(Fetched::NotThere),
        (None, false, None) => doors.require_all(file).map(|()| Fetched::NotThere),
    }
}

/// Whether a repository did not answer: nobody knows what it has.
fn is_silence(error: &CatalogError) -> bool {
    matches!(error.kind, CatalogErrorKind::Storage(_))
}

impl WalDoors {
    /// Whether the file of `record` was written by the cluster under another system identifier, before or after an upgrade:
    /// for `system` it does not exist, and nothing else of its name can.
    fn is_of_another_era(&self, record: &WalRecord, system: Option<SystemId>) -> bool {
        let theirs = record.system_identifier;
        let is_former = |system: &SystemId| self.former.contains(system);
        system.is_some_and(|system| system != theirs && (is_former(&system) || is_former(&theirs)))
    }

    /// Whether the word of `repository` is enough.
    fn believes(&self, repository: &Repository) -> bool {
        matches!(&self.asked, Asked::Believing(name) if *name == repository.name)
    }

    async fn take<S: Write + Send + 'static>(
        &self,
        record: &WalRecord,
        system: Option<SystemId>,
        repository: &Repository,
        sink: impl Fn(&WalRecord) -> Result<S, Failure>,
    ) -> Result<Option<S>, Failure> {
        require_system(record, system, repository)?;
        read(repository, record, self.keys.as_ref(), sink(record)?).await.map(Some)
    }

    /// Errors unless `repository` shows that it is this cluster's: only then does it know what it does not have.
    async fn require_ours(&self, repository: &Repository) -> Result<(), Failure> {
        let place = repository.storage.place();
        let refuse = |what: String| {
            Failure::new(FailureKind::Failed, format!("trust repository {} ({place}): {what}", repository.name))
                .hint("Look whether its disk is mounted and its url is right; nothing is proven missing meanwhile.")
        };
        match repository.identity().await? {
            Some(identity) if identity.cluster == self.cluster => Ok(()),
            Some(identity) => {
                Err(refuse(format!("it belongs to the cluster {}, not to {}", identity.cluster, self.cluster)))
            }
            None => Err(refuse("it is empty".to_owned())),
        }
    }

    fn require_all(&self, file: WalFile) -> Result<(), Failure> {
        let unknown = |what: String| {
            Failure::new(FailureKind::Failed, format!("tell whether {file} is stored: {what}")).hint(
                "`dbagent check` looks at every repository. Is it lost for good? `wal fetch --repository NAME` asks another \
                 one alone.",
            )
        };
        match self.unopened.first() {
            Some((name, failure)) => {
                Err(unknown(format!("repository {name} cannot be opened: {}", failure.full_message())))
            }
            None if self.repositories.is_empty() => Err(unknown("no repository takes WAL".to_owned())),
            None => Ok(()),
        }
    }
}

fn require_system(record: &WalRecord, system: Option<SystemId>, repository: &Repository) -> Result<(), Failure> {
    match system {
        Some(system) if system != record.system_identifier => {
            let theirs = record.system_identifier;
            let message = format!(
                "take {} from repository {}: it is of the system {theirs}, this one is {system}",
                record.name, repository.name
            );
            Err(Failure::new(FailureKind::RefusedForSafety, message)
                .hint("Check which cluster the configuration names, and which base backup was restored."))
        }
        _ => Ok(()),
    }
}

/// What reading a stored file back has shown to be as its signed record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Back {
    /// Stored bytes read.
    pub bytes: u64,
    /// Whether its content was compared too, and not only its bytes as they are stored.
    pub content: bool,
}

/// Reads the stored `file` of `repository` back; nothing where it is not stored. Without `keys` an encrypted one is compared
/// with its signed record as it is stored.
pub async fn read_back(
    repository: &Repository,
    file: WalFile,
    keys: Option<&DecryptionKeys>,
    now: DateTime<Utc>,
) -> Result<Option<Back>, Failure> {
    let Some(record) = repository.wal_record(file, now).await? else { return Ok(None) };
    if keys.is_some() || !names::is_encrypted(&record.object) {
        read(repository, &record, keys, std::io::sink()).await?;
        return Ok(Some(Back { bytes: record.stored_size, content: true }));
    }
    let download = repository.storage.get(&record.object, None, None).await?;
    let mut reading = forward(download, record.stored_size, record.stored_digest)?;
    while reading.next().await.is_some() {}
    Ok(Some(Back { bytes: reading.finish().await?.stored.0, content: false }))
}

async fn read<S: Write + Send + 'static>(
    repository: &Repository,
    record: &WalRecord,
    keys: Option<&DecryptionKeys>,
    sink: S,
) -> Result<S, Failure> {
    let download = repository.storage.get(&record.object, None, None).await?;
    let expected = Expected {
        key: record.object.clone(),
        compressed: names::is_compressed(&record.object),
        encrypted: names::is_encrypted(&record.object),
        content: (record.content_size, record.content_digest),
    };
    Ok(unpack(download, expected, keys, sink).await?)
}
