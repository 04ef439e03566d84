//! Signed checkpoints of the audit chain in a repository: written once, never changed, read back with their signatures
//! checked.
//!
//! `checkpoints/<chain>/<day>/<time>.json` with a detached signature beside it, so that stock tools can check one. The
//! signature goes first: a checkpoint that is there is signed. One that cannot be believed is a fault, never left out silently.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::list_all;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::audit::checkpoint::{Checkpoint, FORMAT, Mark};
use crate::model::digest::Digest;
use crate::model::id::AlertId;
use crate::model::key::ObjectKey;
use crate::storage::PutOptions;

/// Days looked through for the newest before everything is listed.
const RECENT_DAYS: i64 = 3;

/// A checkpoint that lies in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Where.
    pub key: ObjectKey,
    /// What it says.
    pub checkpoint: Checkpoint,
    /// Digest of its bytes: what the next one names.
    pub digest: Digest,
}

impl StoredCheckpoint {
    /// What is remembered of it.
    pub fn mark(&self) -> Mark {
        self.checkpoint.mark(self.digest)
    }
}

impl Repository {
    /// Writes a checkpoint, locked against deletion until `locked_until` where the store can. `is_exists` when there is
    /// one of the same instant.
    pub async fn put_checkpoint(
        &self,
        checkpoint: &Checkpoint,
        locked_until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<ObjectKey, CatalogError> {
        let malformed = |error| CatalogError::new(CatalogErrorKind::Malformed, "write a checkpoint").because(error);
        let bytes = checkpoint.canonical().map_err(malformed)?;
        let key = names::checkpoint(&checkpoint.chain, checkpoint.taken)?;
        self.put_signed(&key, bytes, locked_until, now).await?;
        Ok(key)
    }

    /// Writes a document and its signature, the signature first.
    pub(in crate::catalog) async fn put_signed(
        &self,
        key: &ObjectKey,
        bytes: Vec<u8>,
        locked_until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), CatalogError> {
        let signature = self.signer()?.sign(&bytes, now)?;
        let options = PutOptions {
            locked_until: locked_until.filter(|_| self.storage.features().object_lock),
            ..PutOptions::default()
        };
        self.storage.put(&key.with_suffix(".sig")?, signature.into(), &options).await?;
        self.storage.put(key, bytes.into(), &options).await?;
        Ok(())
    }

    /// A document whose signature is right.
    pub(in crate::catalog) async fn read_signed(
        &self,
        key: &ObjectKey,
        now: DateTime<Utc>,
    ) -> Result<Bytes, CatalogError> {
        let bytes = self.read(key).await?;
        let signature = self.read(&key.with_suffix(".sig")?).await?;
        self.verifier.verify(&bytes, &signature, now)?;
        Ok(bytes)
    }

    /// The newest checkpoint of `chain`. Errors when it cannot be believed.
    pub async fn newest_checkpoint(
        &self,
        chain: &str,
        now: DateTime<Utc>,
    ) -> Result<Option<StoredCheckpoint>, CatalogError> {
        for back in -1..RECENT_DAYS {
            let day = names::checkpoints(chain, Some(now - TimeDelta::days(back)));
            if let Some(key) = self.checkpoint_keys(chain, &day).await?.pop() {
                return self.fetch_checkpoint(key, now).await.map(Some);
            }
        }
        match self.checkpoint_keys(chain, &names::checkpoints(chain, None)).await?.pop() {
            Some(key) => self.fetch_checkpoint(key, now).await.map(Some),
            None => Ok(None),
        }
    }

    /// Signs a checkpoint once more, with this host's key: `….json.<16 digits of the key>.sig`. Done once for each.
    pub async fn cosign_checkpoint(&self, stored: &StoredCheckpoint, now: DateTime<Utc>) -> Result<(), CatalogError> {
        let Ok(signer) = self.signer() else { return Ok(()) };
        let malformed = |error| CatalogError::new(CatalogErrorKind::Malformed, "sign a checkpoint").because(error);
        let signature = signer.sign(&stored.checkpoint.canonical().map_err(malformed)?, now)?;
        let fingerprint: String = signer.fingerprint().chars().take(16).collect();
        match self.write(&stored.key.with_suffix(&format!(".{fingerprint}.sig"))?, signature).await {
            Err(error) if error.is_exists() => Ok(()),
            done => Ok(done?),
        }
    }

    /// Writes an alert down where those look who have no database: `alerts/<day>/<id>.json`.
    pub async fn put_alert(&self, id: AlertId, bytes: Vec<u8>, now: DateTime<Utc>) -> Result<(), CatalogError> {
        let key = names::alert(id, id.raised().unwrap_or(now))?;
        match self.write(&key, bytes).await {
            Err(error) if error.is_exists() => Ok(()),
            written => Ok(written?),
        }
    }

    /// Keys of checkpoints below `prefix`, oldest first.
    pub(in crate::catalog) async fn checkpoint_keys(
        &self,
        chain: &str,
        prefix: &str,
    ) -> Result<Vec<ObjectKey>, CatalogError> {
        let mut keys = list_all(self.storage.as_ref(), prefix).await?;
        keys.retain(|key| names::checkpoint_instant(chain, key).is_some());
        Ok(keys)
    }

    pub(in crate::catalog) async fn fetch_checkpoint(
        &self,
        key: ObjectKey,
        now: DateTime<Utc>,
    ) -> Result<StoredCheckpoint, CatalogError> {
        let bytes = self.read_signed(&key, now).await?;
        let malformed = |why: &str| {
            CatalogError::new(CatalogErrorKind::Malformed, format!("read {key} in {}: {why}", self.storage.place()))
        };
        let checkpoint: Checkpoint =
            serde_json::from_slice(&bytes).map_err(|error| malformed("it is no checkpoint").because(error))?;
        if checkpoint.format != FORMAT {
            let message = format!("read a checkpoint of format {}: this version reads {FORMAT}", checkpoint.format);
            return Err(CatalogError::new(CatalogErrorKind::NewerFormat, message));
        }
        if names::checkpoint(&checkpoint.chain, checkpoint.taken)? != key {
            return Err(malformed("it is signed for another name"));
        }
        Ok(StoredCheckpoint { key, checkpoint, digest: Digest::of(&bytes) })
    }
}
