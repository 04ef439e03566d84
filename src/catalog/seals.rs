//! Signed seals of the audit chain in a repository: `seals/<chain>/<number>_<partition>_<time>.json`, a detached signature
//! beside each, written once and never changed.
//!
//! Seals name their predecessor by digest, the same in every repository: one that was added later is given copies of the
//! bytes that were signed. The signature goes first: a seal that is there is signed.

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::fetch_each::fetch_each;
use crate::catalog::log::list_all;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::audit::seal::{FORMAT, Seal};
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;
use crate::storage::PutOptions;

/// A signed seal, as it lies in a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSeal {
    /// Where.
    pub key: ObjectKey,
    /// What it says.
    pub seal: Seal,
    /// Digest of its bytes: what the next one names.
    pub digest: Digest,
    /// What was signed.
    pub bytes: Bytes,
    /// The detached signature.
    pub signature: Bytes,
}

/// The seals of a chain in one repository.
#[derive(Clone, Debug, Default)]
pub struct Seals {
    /// Those that can be believed, by number.
    pub stored: Vec<StoredSeal>,
    /// What cannot be believed, and why; where one is missing between two others.
    pub faults: Vec<String>,
}

impl Repository {
    /// Signs `seal`. Writes nothing.
    pub fn sign_seal(&self, seal: Seal, now: DateTime<Utc>) -> Result<StoredSeal, CatalogError> {
        let malformed = |error| CatalogError::new(CatalogErrorKind::Malformed, "write a seal").because(error);
        let bytes = seal.canonical().map_err(malformed)?;
        let signature = self.signer()?.sign(&bytes, now)?.into();
        let key = names::seal(&seal.chain, seal.number, &seal.partition.name, seal.sealed)?;
        Ok(StoredSeal { key, seal, digest: Digest::of(&bytes), bytes: bytes.into(), signature })
    }

    /// Writes a signed seal, locked against deletion until `locked_until` where the store can, and reads it back.
    pub async fn put_seal(
        &self,
        signed: &StoredSeal,
        locked_until: Option<DateTime<Utc>>,
        now: DateTime<Utc>,
    ) -> Result<(), CatalogError> {
        let options = PutOptions {
            locked_until: locked_until.filter(|_| self.storage.features().object_lock),
            ..PutOptions::default()
        };
        for (key, bytes) in [(signed.key.with_suffix(".sig")?, &signed.signature), (signed.key.clone(), &signed.bytes)]
        {
            match self.storage.put(&key, bytes.clone(), &options).await.map_err(CatalogError::from) {
                // A copy that a dead run has begun.
                Err(error) if error.is_exists() && self.read(&key).await? == *bytes => {}
                done => drop(done?),
            }
        }
        let stored = self.fetch_seal(signed.key.clone(), now).await?;
        if stored.digest != signed.digest {
            let message = format!("read {} back in {}: it is not what was written", signed.key, self.storage.place());
            return Err(CatalogError::new(CatalogErrorKind::Malformed, message));
        }
        Ok(())
    }

    /// Every seal of `chain`. One that cannot be believed becomes a fault; a store that cannot be read is an error.
    pub async fn seals(&self, chain: &str, now: DateTime<Utc>) -> Result<Seals, CatalogError> {
        let mut keys = list_all(self.storage.as_ref(), &names::seals(chain)).await?;
        keys.retain(|key| key.as_str().ends_with(".json"));
        let fetched = fetch_each(keys, |key| self.fetch_seal(key, now)).await?;
        let mut seals = Seals::default();
        for each in fetched {
            match each {
                Err(fault) => seals.faults.push(fault),
                Ok(stored) => {
                    let before = seals.stored.last();
                    let number = before.map_or(1, |before| before.seal.number + 1);
                    let previous = before.map(|before| before.digest);
                    if (stored.seal.number, stored.seal.previous) != (number, previous) {
                        seals.faults.push(format!("{}: it does not follow the seal before it", stored.key));
                    }
                    seals.stored.push(stored);
                }
            }
        }
        Ok(seals)
    }

    async fn fetch_seal(&self, key: ObjectKey, now: DateTime<Utc>) -> Result<StoredSeal, CatalogError> {
        let bytes = self.read_signed(&key, now).await?;
        let signature = self.read(&key.with_suffix(".sig")?).await?;
        let malformed = |why: &str| {
            CatalogError::new(CatalogErrorKind::Malformed, format!("read {key} in {}: {why}", self.storage.place()))
        };
        let seal: Seal = serde_json::from_slice(&bytes).map_err(|error| malformed("it is no seal").because(error))?;
        if seal.format != FORMAT {
            let message = format!("read a seal of format {}: this version reads {FORMAT}", seal.format);
            return Err(CatalogError::new(CatalogErrorKind::NewerFormat, message));
        }
        if names::seal(&seal.chain, seal.number, &seal.partition.name, seal.sealed)? != key || !seal.is_consistent() {
            return Err(malformed("it is signed for another name, or contradicts itself"));
        }
        Ok(StoredSeal { key, seal, digest: Digest::of(&bytes), bytes, signature })
    }
}
