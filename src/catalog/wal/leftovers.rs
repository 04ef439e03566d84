//! Bytes below `wal/` that no record names: what pushes that died have left.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::error::CatalogError;
use crate::catalog::names::wal::{self as names, WalKey};
use crate::catalog::repository::Repository;
use crate::model::key::ObjectKey;
use crate::model::wal::{SegmentName, WalFile};
use crate::storage::ObjectMeta;

/// What lies below `wal/` and counts for nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalLeftovers {
    /// Objects that no record names.
    pub objects: Vec<ObjectKey>,
    /// Names that are not ours.
    pub foreign: Vec<String>,
}

/// A file's objects, and whether it has a record.
type Held = (bool, Vec<ObjectMeta>);

impl Repository {
    /// What was left before `since`. A file's only object is never a leftover once the file is recorded, whatever the
    /// record says: that is for whoever repairs it.
    pub async fn wal_leftovers(&self, since: DateTime<Utc>, now: DateTime<Utc>) -> Result<WalLeftovers, CatalogError> {
        let mut left = WalLeftovers::default();
        let mut files: BTreeMap<WalFile, Held> = BTreeMap::new();
        let mut current: Option<SegmentName> = None;
        let mut from = None;
        loop {
            let page = self.storage.list(&names::folder(), from.as_ref()).await?;
            left.foreign.extend(page.foreign);
            for object in page.objects {
                let Some(key) = WalKey::of(&object.key) else {
                    left.foreign.push(object.key.to_string());
                    continue;
                };
                // Everything about one segment comes in a row.
                if key.file().segment() != current {
                    current = key.file().segment();
                    self.judge(std::mem::take(&mut files), &mut left, since, now).await?;
                }
                let held = files.entry(key.file()).or_default();
                match key {
                    WalKey::Record(_) => held.0 = true,
                    WalKey::Object(_) => held.1.push(object),
                }
            }
            match page.next {
                Some(next) => from = Some(next),
                None => break,
            }
        }
        self.judge(files, &mut left, since, now).await?;
        Ok(left)
    }

    async fn judge(
        &self,
        files: BTreeMap<WalFile, Held>,
        left: &mut WalLeftovers,
        since: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<(), CatalogError> {
        for (file, (recorded, objects)) in files {
            let named = match (recorded, objects.len()) {
                (true, ..=1) => continue,
                (true, _) => self.wal_record(file, now).await?.map(|record| record.object),
                (false, _) => None,
            };
            // A record that went away meanwhile says nothing of what it named.
            if recorded && named.is_none() {
                continue;
            }
            let old = objects.into_iter().filter(|object| object.modified < since);
            left.objects.extend(old.map(|object| object.key).filter(|key| Some(key) != named.as_ref()));
        }
        Ok(())
    }
}
