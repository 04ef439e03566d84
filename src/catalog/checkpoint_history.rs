//! Every checkpoint of a chain in one repository, without reading each of them each time.
//!
//! What was read and found signed is remembered in the state directory, a file for each month, and only what is new is
//! fetched. The memory is a cache: without it everything is fetched again. It can only make more be noticed: what is
//! remembered still counts when it is gone from the repository, and its being gone is a fault. A thorough reading lists
//! everything, and fetches some of what is remembered to see whether it still says the same.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use rand::seq::IteratorRandom as _;
use serde::{Deserialize, Serialize};

use crate::catalog::checkpoint_memory::MarkMemory;
use crate::catalog::checkpoints::StoredCheckpoint;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::fetch_each::fetch_each;
use crate::catalog::log::list_all;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::audit::checkpoint::{Mark, canonical};
use crate::model::digest::Digest;
use crate::model::key::ObjectKey;

/// Remembered checkpoints that a thorough reading fetches again.
const SAMPLE: usize = 32;

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// What is new.
    Recent,
    /// Whether all that is remembered is there, too, and some of it anew.
    Thorough,
}

/// The checkpoints of a chain in one repository.
#[derive(Clone, Debug, Default)]
pub struct CheckpointHistory {
    /// Oldest first.
    pub marks: Vec<Mark>,
    /// The newest, whole.
    pub newest: Option<StoredCheckpoint>,
    /// What cannot be believed, and why; where one is missing between two others.
    pub faults: Vec<String>,
}

/// The signed statement that checkpoints before an instant were deleted because their time was over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Expired {
    format: u32,
    chain: String,
    /// Those taken before this instant.
    before: DateTime<Utc>,
    /// Digest of the first that stays: what it says of its predecessor can be checked no more.
    first: Digest,
    /// When this was signed.
    stated: DateTime<Utc>,
}

impl Repository {
    /// Every checkpoint of `chain`. One that cannot be believed becomes a fault; a store that cannot be read is an error.
    pub async fn checkpoint_history(
        &self,
        chain: &str,
        reading: Reading,
        now: DateTime<Utc>,
    ) -> Result<CheckpointHistory, CatalogError> {
        let memory = MarkMemory::of(self, chain);
        let mut known = memory.recall();
        // The one that stands at the end is fetched again: the newest is needed whole.
        let last = known.pop();
        let expired = self.expired(chain, now).await?;
        let begins = expired.as_ref().map_or(DateTime::<Utc>::MIN_UTC, |expired| expired.before);
        known.retain(|mark| mark.taken >= begins);
        let is_thorough = reading == Reading::Thorough || known.is_empty();
        let mut listed = self.listed(chain, &known, is_thorough, now).await?;
        listed.retain(|taken| *taken >= begins);
        let mut history = CheckpointHistory::default();
        // Without it the one before it would be the newest, and nobody would miss it.
        if let Some(last) = last.filter(|last| last.taken >= begins && !listed.contains(&last.taken)) {
            known.push(last);
            history.faults.extend(missing(&[last], &listed).filter(|_| !is_thorough));
        }
        if is_thorough {
            history.faults.extend(missing(&known, &listed));
            history.faults.extend(self.differing(chain, &known, now).await?);
        }
        let remembered: BTreeSet<DateTime<Utc>> = known.iter().map(|mark| mark.taken).collect();
        let new = listed.iter().filter(|taken| !remembered.contains(taken));
        let keys: Result<Vec<ObjectKey>, _> = new.map(|taken| names::checkpoint(chain, *taken)).collect();
        let fetched = fetch_each(keys?, |key| self.fetch_checkpoint(key, now)).await?;
        let changed = |stored: &&StoredCheckpoint| last.is_some_and(|last| is_another(&stored.mark(), &last));
        if let Some(changed) = fetched.iter().flatten().find(changed) {
            history.faults.push(format!("{}: it does not say what it said when it was read before", changed.key));
        }
        let first = expired.map(|expired| expired.first);
        history.join(known, fetched, first);
        if history.faults.is_empty() {
            memory.remember(&history.marks);
        }
        Ok(history)
    }

    /// The instants of what lies there, a day at a time: of all days, or of those from the last remembered one on.
    async fn listed(
        &self,
        chain: &str,
        known: &[Mark],
        all: bool,
        now: DateTime<Utc>,
    ) -> Result<Vec<DateTime<Utc>>, CatalogError> {
        let mut days = Vec::new();
        match known.last().filter(|_| !all) {
            None => {
                let root = names::checkpoints(chain, None);
                days.extend(self.storage.folders_in(&root).await?.into_iter().map(|day| format!("{root}{day}/")));
                days.sort();
            }
            Some(last) => {
                let mut day = last.taken;
                // A clock may have run ahead.
                while day.date_naive() <= (now + TimeDelta::days(1)).date_naive() {
                    days.push(names::checkpoints(chain, Some(day)));
                    day += TimeDelta::days(1);
                }
            }
        }
        let mut instants = Vec::new();
        for day in days {
            let keys = self.checkpoint_keys(chain, &day).await?;
            instants.extend(keys.iter().filter_map(|key| names::checkpoint_instant(chain, key)));
        }
        Ok(instants)
    }

    /// Remembered checkpoints, some of them, that do not say any more what they said.
    async fn differing(&self, chain: &str, known: &[Mark], now: DateTime<Utc>) -> Result<Vec<String>, CatalogError> {
        let sample: BTreeMap<DateTime<Utc>, Digest> = known
            .iter()
            .choose_multiple(&mut rand::rng(), SAMPLE)
            .into_iter()
            .map(|mark| (mark.taken, mark.digest))
            .collect();
        let keys: Result<Vec<ObjectKey>, _> = sample.keys().map(|taken| names::checkpoint(chain, *taken)).collect();
        let mut faults = Vec::new();
        for each in fetch_each(keys?, |key| self.fetch_checkpoint(key, now)).await? {
            match each {
                // One that is gone is told as such.
                Err(fault) => faults.push(fault),
                Ok(stored) if sample.get(&stored.mark().taken) != Some(&stored.digest) => {
                    faults.push(format!("{}: it does not say what it said when it was read before", stored.key));
                }
                Ok(_) => {}
            }
        }
        Ok(faults)
    }

    /// The newest statement that old checkpoints were deleted on purpose.
    async fn expired(&self, chain: &str, now: DateTime<Utc>) -> Result<Option<Expired>, CatalogError> {
        let mut keys = list_all(self.storage.as_ref(), &names::expired_checkpoints(chain)).await?;
        keys.retain(|key| key.as_str().ends_with(".json"));
        let Some(key) = keys.pop() else { return Ok(None) };
        let bytes = self.read_signed(&key, now).await?;
        let malformed = |error| {
            let message = format!("read {key} in {}: it states no expiry", self.storage.place());
            CatalogError::new(CatalogErrorKind::Malformed, message).because(error)
        };
        Ok(Some(serde_json::from_slice(&bytes).map_err(malformed)?))
    }

    /// How many checkpoints of `chain` were taken before `cut_off`; the newest of all is not counted.
    pub async fn checkpoints_before(&self, chain: &str, cut_off: DateTime<Utc>) -> Result<u64, CatalogError> {
        let keys = self.checkpoint_keys(chain, &names::checkpoints(chain, None)).await?;
        let old =
            keys.iter().take(keys.len().saturating_sub(1)).filter_map(|key| names::checkpoint_instant(chain, key));
        Ok(old.filter(|taken| *taken < cut_off).count() as u64)
    }

    /// Deletes checkpoints taken before `cut_off`, with everything that was signed beside them, after a signed statement of
    /// it. Nothing is deleted of a history that cannot be believed. How many went.
    pub async fn expire_checkpoints(
        &self,
        chain: &str,
        cut_off: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<u64, CatalogError> {
        let due = self.checkpoints_before(chain, cut_off).await?;
        if due == 0 {
            return Ok(0);
        }
        let history = self.checkpoint_history(chain, Reading::Thorough, now).await?;
        if let Some(fault) = history.faults.first() {
            let message = format!("expire checkpoints in {}: {fault}", self.storage.place());
            return Err(CatalogError::new(CatalogErrorKind::Malformed, message));
        }
        let Some(first) = history.marks.iter().find(|mark| mark.taken >= cut_off).or(history.marks.last()) else {
            return Ok(0);
        };
        let expired =
            Expired { format: 1, chain: chain.to_owned(), before: first.taken, first: first.digest, stated: now };
        let unwritable = |error| CatalogError::new(CatalogErrorKind::Malformed, "state an expiry").because(error);
        let bytes = canonical(&serde_json::to_value(&expired).map_err(unwritable)?).into_bytes();
        self.put_signed(&names::expired_checkpoint(chain, now)?, bytes, None, now).await?;
        for key in list_all(self.storage.as_ref(), &names::checkpoints(chain, None)).await? {
            let instant = names::checkpoint_or_signature_instant(chain, &key);
            if instant.is_some_and(|taken| taken < first.taken) {
                self.storage.delete(&key, None).await?;
            }
        }
        MarkMemory::of(self, chain).forget_before(first.taken);
        Ok(due)
    }
}

/// Whether two marks are of the same instant and of different checkpoints.
fn is_another(now: &Mark, then: &Mark) -> bool {
    now.taken == then.taken && now.digest != then.digest
}

/// Remembered checkpoints that are gone.
fn missing(known: &[Mark], listed: &[DateTime<Utc>]) -> Option<String> {
    let there: BTreeSet<DateTime<Utc>> = listed.iter().copied().collect();
    let gone: Vec<&Mark> = known.iter().filter(|mark| !there.contains(&mark.taken)).collect();
    let first = gone.first()?;
    let taken = first.taken.format("%Y-%m-%dT%H:%M:%S%.3fZ");
    Some(format!("{} checkpoints that were here are gone, the first of {taken}", gone.len()))
}

impl CheckpointHistory {
    /// Puts what is remembered and what was fetched together, and checks that each follows the one before it. `first` is
    /// the one that may stand at the beginning although it names another before it.
    fn join(&mut self, known: Vec<Mark>, fetched: Vec<Result<StoredCheckpoint, String>>, first: Option<Digest>) {
        self.marks = known;
        let last_known = self.marks.last().map(|mark| mark.taken);
        for each in fetched {
            let stored = match each {
                Ok(stored) => stored,
                Err(fault) => {
                    self.faults.push(fault);
                    continue;
                }
            };
            if last_known.is_some_and(|last| stored.checkpoint.taken < last) {
                self.faults.push(format!("{}: it was not here when later ones were read", stored.key));
                continue;
            }
            let before = self.marks.last().map(|before| before.digest);
            let may_begin = before.is_none() && first == Some(stored.digest);
            if stored.checkpoint.previous != before && !may_begin {
                self.faults.push(format!("{}: it does not follow the checkpoint before it", stored.key));
            }
            self.marks.push(stored.mark());
            self.newest = Some(stored);
        }
    }
}
