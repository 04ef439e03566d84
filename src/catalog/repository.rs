//! One repository seen through its catalog: a storage with the keys that sign and check what is said in it.
//!
//! Reads and writes small signed documents only; artifact bytes go through `pipeline`. `now` is always a parameter.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::catalog::entry::{Entry, Head, Record};
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::Log;
use crate::catalog::names;
use crate::catalog::signature::{Signer, Verifier};
use crate::catalog::term::Term;
use crate::host::failpoint::{self, FailPoint};
use crate::model::digest::Digest;
use crate::model::id::ArtifactId;
use crate::model::key::{InvalidKey, ObjectKey};
use crate::model::manifest::{CatalogPosition, Manifest};
use crate::storage::{PutOptions, Storage, StorageError};

/// Largest document the catalog reads whole, in bytes. A manifest with 100,000 tables stays below it.
const DOCUMENT_LIMIT: u64 = 64 << 20;

/// How often an append starts over because another writer took the number, before it gives up.
pub(in crate::catalog) const APPEND_ATTEMPTS: u32 = 16;

/// One repository and what is needed to believe and extend its catalog.
#[derive(Clone, Debug)]
pub struct Repository {
    /// Its name in the configuration.
    pub name: String,
    /// Where its objects are.
    pub storage: Arc<dyn Storage>,
    /// Whose signatures are believed.
    pub verifier: Arc<Verifier>,
    /// What signs; absent where nothing is written.
    pub signer: Option<Arc<Signer>>,
    /// Where the newest head ever seen is remembered; absent on a host without state.
    pub memory: Option<PathBuf>,
    /// The term it is written to under.
    pub term: Arc<Term>,
}

/// The place an artifact is given in a repository's log.
#[derive(Clone, Debug)]
pub struct Place {
    /// Its number and its predecessor.
    pub position: CatalogPosition,
    /// The term it is written in.
    pub fencing_token: u64,
}

/// A manifest that was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The manifest as written.
    pub manifest: Manifest,
    /// Its key.
    pub key: ObjectKey,
}

impl From<InvalidKey> for CatalogError {
    fn from(error: InvalidKey) -> Self {
        Self::new(CatalogErrorKind::Malformed, error.to_string())
    }
}

impl Repository {
    /// The bytes of a small object, whole.
    pub async fn read(&self, key: &ObjectKey) -> Result<Bytes, CatalogError> {
        let mut download = self.storage.get(key, None, None).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = download.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > DOCUMENT_LIMIT {
                let message = format!("read {key} in {}: it is larger than 64 MiB", self.storage.place());
                return Err(CatalogError::new(CatalogErrorKind::Malformed, message));
            }
        }
        Ok(bytes.into())
    }

    pub(in crate::catalog) async fn write(&self, key: &ObjectKey, bytes: Vec<u8>) -> Result<(), StorageError> {
        self.storage.put(key, bytes.into(), &PutOptions::default()).await.map(|_| ())
    }

    pub(in crate::catalog) fn signer(&self) -> Result<&Signer, CatalogError> {
        self.signer.as_deref().ok_or_else(|| {
            let message = format!("write to the catalog of repository {}: no signing key is configured", self.name);
            CatalogError::new(CatalogErrorKind::Key, message)
        })
    }

    /// Appends one statement under our term.
    pub async fn record(&self, record: Record, now: DateTime<Utc>) -> Result<(), CatalogError> {
        for _ in 0..APPEND_ATTEMPTS {
            let (head, token) = self.writable_head(now).await?;
            match self.append_after(&head, token, record.clone(), now).await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_exists() => {}
                Err(error) => return Err(error),
            }
        }
        Err(self.contended())
    }

    /// Commits an artifact whose objects are all in place: takes a number in the log, then writes the signature, then the
    /// manifest, after which it exists. `draft` makes the manifest for the place it is given.
    pub async fn commit(
        &self,
        key: &ObjectKey,
        now: DateTime<Utc>,
        draft: impl Fn(Place) -> Manifest + Sync,
    ) -> Result<Committed, CatalogError> {
        for _ in 0..APPEND_ATTEMPTS {
            let (head, token) = self.writable_head(now).await?;
            let position = CatalogPosition { sequence: head.sequence + 1, previous: head.digest };
            let manifest = draft(Place { position, fencing_token: token });
            match self.commit_after(&head, key, manifest, token, now).await {
                Err(error) if error.is_exists() => {}
                done => return done,
            }
        }
        Err(self.contended())
    }

    async fn commit_after(
        &self,
        head: &Head,
        key: &ObjectKey,
        manifest: Manifest,
        token: u64,
        now: DateTime<Utc>,
    ) -> Result<Committed, CatalogError> {
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "write a manifest").because(error))?;
        let signature = self.signer()?.sign(&bytes, now)?;
        let record = commit_record(manifest.id, key, &bytes, &signature);
        self.append_after(head, token, record, now).await?;
        reach(FailPoint::CatalogClaimed)?;
        self.write_once(&key.with_suffix(".sig")?, signature).await?;
        reach(FailPoint::CatalogSignaturePut)?;
        self.write_once(key, bytes).await?;
        reach(FailPoint::CatalogManifestPut)?;
        Ok(Committed { manifest, key: key.clone() })
    }

    /// A write after the number was taken: a key that exists is then no race to be run again but somebody else's object.
    async fn write_once(&self, key: &ObjectKey, bytes: Vec<u8>) -> Result<(), CatalogError> {
        self.write(key, bytes).await.map_err(|error| {
            if error.is_exists() {
                let message = format!("write {key} in {}: the name is already taken", self.storage.place());
                return CatalogError::new(CatalogErrorKind::Malformed, message).because(error);
            }
            error.into()
        })
    }

    pub(in crate::catalog) async fn append_after(
        &self,
        head: &Head,
        token: u64,
        record: Record,
        now: DateTime<Utc>,
    ) -> Result<Head, CatalogError> {
        let entry = Entry::following(head, token, record, now);
        let stored = entry.seal(self.signer()?)?;
        let next = head.after(&entry, &stored);
        self.write(&names::entry(entry.sequence)?, stored).await?;
        self.remember(&next);
        Ok(next)
    }

    /// The end of the log, its chain checked.
    pub async fn head(&self, now: DateTime<Utc>) -> Result<Head, CatalogError> {
        let log = Log::read(self, now).await?;
        match log.broken {
            None => Ok(log.head),
            Some(reason) => Err(CatalogError::new(CatalogErrorKind::RolledBack, reason)),
        }
    }

    pub(in crate::catalog) fn contended(&self) -> CatalogError {
        let message = format!("add to the catalog of repository {}: other writers kept taking the number", self.name);
        CatalogError::new(CatalogErrorKind::Fenced, message)
    }
}

fn commit_record(artifact: ArtifactId, manifest: &ObjectKey, bytes: &[u8], signature: &[u8]) -> Record {
    Record::Commit {
        artifact,
        manifest: manifest.clone(),
        manifest_digest: Digest::of(bytes),
        signature_digest: Digest::of(signature),
    }
}

fn reach(point: FailPoint) -> Result<(), CatalogError> {
    failpoint::reach(point)
        .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "pass a fail point").because(error))
}
