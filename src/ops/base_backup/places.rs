//! The repositories while a base backup is made: what each has, or why it was left behind.
//!
//! Every part is committed as soon as it is whole, and read back at once; without a manifest it counts for nothing. A
//! repository that fails is left behind without holding up the others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::catalog::{ArtifactName, Identity, Repository};
use crate::host::Complete;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::key::ObjectKey;
use crate::model::lsn::SystemId;
use crate::model::manifest::{ObjectRecord, ObjectRole, VerificationLevel};
use crate::model::outcome::RepositoryOutcome;
use crate::ops::Setting;
use crate::pipeline::store::{Delivered, Destination, Flowed};
use crate::steps::read_back;
use crate::storage::{PutOptions, StorageError};

/// One repository.
pub(super) struct Place {
    pub(super) repository: Repository,
    storage_class: Option<String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    objects: Vec<ObjectRecord>,
    level: Option<VerificationLevel>,
    stored_bytes: u64,
    error: Option<Failure>,
}

/// All of them.
pub(super) struct Places(pub(super) Vec<Place>);

/// Whose repositories they must be.
pub(super) struct Owner<'a> {
    pub(super) cluster: &'a str,
    pub(super) system: Option<SystemId>,
    pub(super) former: &'a [SystemId],
}

impl Places {
    /// Claims every repository; those that cannot be used are left behind, unless none is left.
    pub(super) async fn open(
        repositories: &[Repository],
        classes: &BTreeMap<String, String>,
        owner: &Owner<'_>,
        now: DateTime<Utc>,
    ) -> Result<Self, Failure> {
        let identity = Identity::new(owner.cluster, owner.system, now);
        let mut places = Vec::new();
        for repository in repositories {
            let place = Place {
                repository: repository.clone(),
                storage_class: classes.get(&repository.name).cloned(),
                state: Mutex::default(),
            };
            let claimed = async {
                repository.claim(&identity, owner.former).await?;
                repository.term(now).await
            };
            if let Err(error) = claimed.await {
                place.give_up(error.into());
            }
            places.push(place);
        }
        let places = Self(places);
        places.require_one()?;
        Ok(places)
    }

    /// Those that are still taking part.
    pub(super) fn going(&self) -> Vec<&Place> {
        self.0.iter().filter(|place| place.state().error.is_none()).collect()
    }

    /// Begins an object in every repository.
    pub(super) async fn begin(
        &self,
        key: &ObjectKey,
        expected: Option<u64>,
        stall: Duration,
    ) -> Result<Vec<Destination>, Failure> {
        let mut destinations = Vec::new();
        for place in self.going() {
            let storage_class = place.storage_class.clone();
            let options = PutOptions { storage_class, expected_size: expected, ..PutOptions::default() };
            match place.repository.storage.upload(key, &options).await {
                Ok(upload) => {
                    destinations.push(Destination { name: place.repository.name.clone(), upload, stall_timeout: stall })
                }
                Err(error) => place.give_up(error.into()),
            }
        }
        self.require_one()?;
        Ok(destinations)
    }

    /// Commits what flowed, in every repository that took it, and reads it back.
    pub(super) async fn commit(
        &self,
        mut flowed: Flowed,
        record: &ObjectRecord,
        setting: &Setting,
    ) -> Result<(), Failure> {
        let sent = std::mem::take(&mut flowed.destinations);
        let mut committing: Vec<BoxFuture<'_, ()>> = Vec::new();
        for (name, sent) in sent {
            let Some(place) = self.0.iter().find(|place| place.repository.name == name) else { continue };
            committing.push(place.committing(sent, flowed.proof.clone(), record, setting));
        }
        futures_util::future::join_all(committing).await;
        self.require_one()
    }

    /// Errors with the first repository's failure when all of them were left behind.
    pub(super) fn require_one(&self) -> Result<(), Failure> {
        if !self.going().is_empty() {
            return Ok(());
        }
        let Some((first, rest)) = self.0.split_first() else {
            return Err(Failure::new(FailureKind::Usage, "store a base backup: no repository is configured")
                .hint("Add a [repository.NAME] with its url to dbagent.toml."));
        };
        let mut state = first.state();
        let error = state.error.take();
        let kind = error.as_ref().map_or(FailureKind::Failed, |error| error.kind);
        let told = |name: &str, error: &Option<Failure>| match error {
            Some(error) => format!("{name}: {}", error.full_message()),
            None => name.to_owned(),
        };
        let mut message = format!("store the base backup in repository {}", told(&first.repository.name, &error));
        for place in rest {
            message.push_str(&format!("; in {}", told(&place.repository.name, &place.state().error)));
        }
        let failure = Failure::new(kind, message);
        Err(match error.and_then(|error| error.hint) {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }
}

impl Place {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves this repository behind.
    pub(super) fn give_up(&self, error: Failure) {
        tracing::warn!(repository = self.repository.name, error = error.full_message(), "left behind");
        self.state().error.get_or_insert(error);
    }

    fn committing<'s>(
        &'s self,
        sent: Delivered,
        proof: Complete,
        record: &'s ObjectRecord,
        setting: &'s Setting,
    ) -> BoxFuture<'s, ()> {
        self.commit(sent, proof, record, setting).boxed()
    }

    /// Makes an object visible and reads it back; a failure leaves this repository behind.
    async fn commit(&self, sent: Delivered, proof: Complete, record: &ObjectRecord, setting: &Setting) {
        let committed = async {
            let stored = sent?.commit(proof, record.stored_digest, record.stored_size).await?;
            let record = ObjectRecord { version: stored.version, ..record.clone() };
            self.hold(record, stored.read_back, setting).await
        };
        if let Err(error) = committed.await {
            self.give_up(error);
        }
    }

    /// Takes a committed object, read back, if it is not yet.
    async fn hold(&self, mut record: ObjectRecord, is_read: bool, setting: &Setting) -> Result<(), Failure> {
        record.storage_class =
            self.storage_class.clone().filter(|_| self.repository.storage.features().storage_classes);
        let unread = if is_read { &[] } else { std::slice::from_ref(&record) };
        let level = read_back::read_back(&self.repository, unread, &setting.events).await?;
        let mut state = self.state();
        state.level = Some(state.level.map_or(level, |weakest| weakest.min(level)));
        state.objects.push(record);
        Ok(())
    }

    /// Its name and its place.
    pub(super) fn described(&self) -> (String, String) {
        (self.repository.name.clone(), self.repository.storage.place())
    }

    /// Takes an object that an earlier run has stored, read back to `level`.
    pub(super) fn adopt(&self, record: ObjectRecord, level: VerificationLevel) {
        let mut state = self.state();
        state.level = Some(state.level.map_or(level, |weakest| weakest.min(level)));
        state.objects.push(record);
    }

    /// The object `key` as it is held.
    pub(super) fn held(&self, key: &ObjectKey) -> Option<ObjectRecord> {
        self.state().objects.iter().find(|object| object.key == *key).cloned()
    }

    /// Whether what the store says of an object is still what is recorded.
    pub(super) async fn has(&self, record: &ObjectRecord) -> bool {
        let meta = read_back::newest(&self.repository, record).await.ok().flatten();
        meta.is_some_and(|meta| {
            meta.size == record.stored_size && meta.digest.is_none_or(|digest| digest == record.stored_digest)
        })
    }

    /// What lies in the folder of the backup `name`: sizes by key.
    pub(super) async fn folder(&self, name: &ArtifactName) -> Result<BTreeMap<ObjectKey, u64>, StorageError> {
        let (begins, mut from, mut there) = (name.begins(), None, BTreeMap::new());
        loop {
            let page = self.repository.storage.list(&begins, from.as_ref()).await?;
            there.extend(page.objects.into_iter().map(|object| (object.key, object.size)));
            from = page.next;
            if from.is_none() {
                return Ok(there);
            }
        }
    }

    /// Ends the uploads into the folder of the backup `name` that died with an earlier run. Errors, too, where nothing may
    /// be deleted from it: of a part that there never is, a store says the same.
    pub(super) async fn end_uploads(&self, name: &ArtifactName) -> Result<(), Failure> {
        let begins = name.begins();
        for upload in self.repository.storage.unfinished().await? {
            if upload.key.starts_with(&begins) {
                self.repository.storage.abort(&upload).await?;
            }
        }
        Ok(self.repository.storage.delete(&name.part(0, &[])?, None).await?)
    }

    /// Deletes from `there` what is not held.
    pub(super) async fn clear(&self, there: &BTreeMap<ObjectKey, u64>) -> Result<(), StorageError> {
        let held: BTreeSet<ObjectKey> = self.state().objects.iter().map(|object| object.key.clone()).collect();
        for key in there.keys().filter(|key| !held.contains(key)) {
            self.repository.storage.delete(key, None).await?;
        }
        Ok(())
    }

    /// Errors unless everything that is held lies in the backup's folder: parts may have been stored long ago. What an
    /// earlier run's last breath added meanwhile goes, if it can: no backup is given up for it.
    async fn require_folder(&self, name: &ArtifactName) -> Result<(), Failure> {
        let there = self.folder(name).await?;
        let lost = self.state().objects.iter().find(|held| there.get(&held.key) != Some(&held.stored_size)).cloned();
        if let Some(lost) = lost {
            let message =
                format!("commit the base backup in {}: {} is not there any more", self.repository.name, lost.key);
            return Err(Failure::new(FailureKind::Integrity, message).hint(
                "Something deletes what is being made: a lifecycle rule, a person, or an expiry on a host whose clock is \
                 hours ahead.",
            ));
        }
        if let Err(error) = self.clear(&there).await {
            let (repository, error) = (&self.repository.name, with_causes(&error));
            tracing::warn!(repository, error, "something that is no part of it stays in the folder of a base backup");
        }
        Ok(())
    }

    /// Puts the `.sha256` file over everything it holds, and gives all of it in order with the weakest check of any.
    pub(super) async fn close(
        &self,
        name: &ArtifactName,
        setting: &Setting,
    ) -> Result<(Vec<ObjectRecord>, VerificationLevel), Failure> {
        self.require_folder(name).await?;
        let mut objects = self.state().objects.clone();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        let key = name.object(ObjectRole::Checksums, &[])?;
        let lines = objects.iter().map(|object| format!("{}  {}\n", object.stored_digest, object.key.name()));
        let body = Bytes::from(lines.collect::<String>());
        let (size, digest) = (body.len() as u64, Digest::of(&body));
        let stored = self.repository.storage.put(&key, body, &PutOptions::default()).await?;
        let record = ObjectRecord {
            role: ObjectRole::Checksums,
            key,
            version: stored.version,
            content_size: size,
            content_digest: digest,
            stored_size: size,
            stored_digest: digest,
            encoding: Vec::new(),
            storage_class: None,
            sse: None,
        };
        let level = read_back::read_back(&self.repository, std::slice::from_ref(&record), &setting.events).await?;
        objects.push(record);
        let weakest = self.state().level.map_or(level, |weakest| weakest.min(level));
        Ok((objects, weakest))
    }

    /// Notes what was committed.
    pub(super) fn committed(&self, bytes: u64) {
        self.state().stored_bytes = bytes;
    }

    /// What became of it.
    pub(super) fn outcome(&self) -> RepositoryOutcome {
        let state = self.state();
        RepositoryOutcome {
            repository: self.repository.name.clone(),
            error: state.error.as_ref().map(Failure::full_message),
            stored_bytes: state.stored_bytes,
        }
    }
}
