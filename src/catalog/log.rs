//! Reading the catalog's log: entries in order, signatures and chain checked, rollback noticed.
//!
//! A broken log does not hide what is stored: reading gives everything up to the break and says what is wrong, so that
//! a restore in need can still decide. Whoever writes refuses to go on from a broken log.

use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::catalog::entry::{Entry, Head};
use crate::catalog::error::CatalogError;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::failure::with_causes;
use crate::model::key::ObjectKey;
use crate::storage::{Page, Storage};

/// Entries fetched at once.
const FETCHES_AT_ONCE: usize = 16;

/// The log as read.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Entries in order, up to the first that cannot be believed.
    pub entries: Vec<Entry>,
    /// The end of what can be believed.
    pub head: Head,
    /// Why the log cannot be believed to its end; absent when it can.
    pub broken: Option<String>,
}

impl Log {
    /// Reads the whole log of `repository`.
    pub async fn read(repository: &Repository, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        // Before the listing: another process may add an entry, and remember it, while this one reads.
        let seen = repository.recall();
        let keys = list_all(repository.storage.as_ref(), &names::entries()).await?;
        let numbered = keys.into_iter().filter(|key| names::entry_number(key).is_some());
        let fetched: Vec<(ObjectKey, bytes::Bytes)> = stream::iter(numbered)
            .map(|key| async move { repository.read(&key).await.map(|bytes| (key, bytes)) })
            .buffered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        let mut log = Self::default();
        for (key, stored) in fetched {
            if let Err(reason) = log.take(repository, &key, &stored, now) {
                log.broken = Some(reason);
                break;
            }
        }
        log.compare(repository, seen);
        Ok(log)
    }

    fn take(
        &mut self,
        repository: &Repository,
        key: &ObjectKey,
        stored: &[u8],
        now: DateTime<Utc>,
    ) -> Result<(), String> {
        let place = repository.storage.place();
        let entry = Entry::unseal(stored, &repository.verifier, now)
            .map_err(|error| format!("believe {key} in {place}: {}", with_causes(&error)))?;
        if names::entry_number(key) != Some(entry.sequence) || !self.head.is_followed_by(&entry) {
            return Err(format!("believe {key} in {place}: it does not follow the entry before it"));
        }
        self.head = self.head.after(&entry, stored);
        self.entries.push(entry);
        Ok(())
    }

    /// A log shorter than one already seen, or with another entry at the same number, was rolled back or replaced.
    fn compare(&mut self, repository: &Repository, seen: Option<Head>) {
        let Some(seen) = seen else {
            return repository.remember(&self.head);
        };
        let same = match self.entries.get(usize::try_from(seen.sequence).unwrap_or(usize::MAX)) {
            Some(next) => next.previous == seen.digest,
            None => self.head.sequence == seen.sequence && self.head.digest == seen.digest,
        };
        if self.broken.is_some() {
            return;
        }
        if seen.sequence > 0 && !same {
            let place = repository.storage.place();
            let (last, known) = (self.head.sequence, seen.sequence);
            self.broken = Some(format!(
                "believe the catalog in {place}: it ends at entry {last} and does not hold the entry {known} seen before; \
                 it was rolled back or replaced"
            ));
            return;
        }
        repository.remember(&self.head);
    }
}

/// Every key below `prefix`, in order.
pub(in crate::catalog) async fn list_all(storage: &dyn Storage, prefix: &str) -> Result<Vec<ObjectKey>, CatalogError> {
    let mut keys = Vec::new();
    let mut from = None;
    loop {
        let Page { objects, next, .. } = storage.list(prefix, from.as_ref()).await?;
        keys.extend(objects.into_iter().map(|object| object.key));
        match next {
            Some(token) => from = Some(token),
            None => return Ok(keys),
        }
    }
}
