//! Signed decrypt drills in a repository: `drills/<fingerprint>/<day>.json`, the first of each day, never changed.
//!
//! Only the newest of each recipient counts. One that no trusted key signed proves nothing and is passed over: the one before
//! it still stands.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::envelope;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::list_all;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::drill::{Drill, FORMAT};
use crate::model::key::ObjectKey;

/// How far ahead of our clock a drill may lie and still count: clocks differ.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(5);

impl Repository {
    /// Writes a drill down, signed. The first of a day stays.
    pub async fn put_drill(&self, drill: &Drill) -> Result<(), CatalogError> {
        let key = names::drill(&drill.recipient, drill.drilled)?;
        let text = serde_json::to_string(drill)
            .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "write a drill").because(error))?;
        match self.write(&key, envelope::seal(text, self.signer()?, drill.drilled)?).await {
            Err(error) if error.is_exists() => Ok(()),
            written => Ok(written?),
        }
    }

    /// The newest drill of each recipient that can be believed at `now`.
    pub async fn newest_drills(&self, now: DateTime<Utc>) -> Result<BTreeMap<String, Drill>, CatalogError> {
        let mut newest: BTreeMap<String, Drill> = BTreeMap::new();
        let mut keys = list_all(self.storage.as_ref(), &names::drills()).await?;
        keys.sort_by(|a, b| b.cmp(a));
        for key in keys {
            let Some(recipient) = names::drilled_recipient(&key) else { continue };
            if newest.contains_key(recipient) {
                continue;
            }
            match self.believe_drill(&key, now).await {
                Ok(drill) => drop(newest.insert(recipient.to_owned(), drill)),
                Err(error) if is_unbelievable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(newest)
    }

    async fn believe_drill(&self, key: &ObjectKey, now: DateTime<Utc>) -> Result<Drill, CatalogError> {
        let stored = self.read(key).await?;
        let text = envelope::unseal(&stored, &self.verifier, now)?;
        let malformed = |why: &str| CatalogError::new(CatalogErrorKind::Malformed, format!("read {key}: {why}"));
        let drill: Drill = serde_json::from_str(&text).map_err(|error| malformed("it is no drill").because(error))?;
        let is_itself = names::drill(&drill.recipient, drill.drilled)? == *key;
        match drill.format == FORMAT && is_itself && drill.drilled <= now + CLOCK_TOLERANCE {
            true => Ok(drill),
            false => Err(malformed("it is of another format, name or time")),
        }
    }
}

/// Whether the document is at fault, and not the store.
fn is_unbelievable(error: &CatalogError) -> bool {
    error.is_missing() || !matches!(error.kind, CatalogErrorKind::Storage(_))
}
