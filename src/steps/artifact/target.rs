//! One repository while an artifact is made: the uploads it has taken, what it committed, or why it was left behind.

use bytes::Bytes;

use crate::catalog::{ArtifactName, Repository};
use crate::host::Complete;
use crate::host::failpoint::{FailPoint, pass};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::manifest::{Encoding, ObjectRecord, ObjectRole, Verification};
use crate::model::outcome::RepositoryOutcome;
use crate::steps::artifact::draft::Draft;
use crate::steps::read_back;
use crate::storage::{PutOptions, Upload};

/// Bytes handed to an upload at once.
const PIECE_BYTES: usize = 1 << 20;

/// An object that is wholly sent and not yet visible.
pub(super) struct Pending {
    pub(super) upload: Box<dyn Upload>,
    pub(super) proof: Complete,
    pub(super) record: ObjectRecord,
}

/// One repository while an artifact is made.
pub struct Target {
    /// The repository.
    pub repository: Repository,
    storage_class: Option<String>,
    pending: Vec<Pending>,
    stored_bytes: u64,
    error: Option<Failure>,
}

impl Target {
    /// A repository that has nothing yet.
    pub fn new(repository: Repository, storage_class: Option<String>) -> Self {
        Self { repository, storage_class, pending: Vec::new(), stored_bytes: 0, error: None }
    }

    /// Whether it is still taking part.
    pub fn is_going(&self) -> bool {
        self.error.is_none()
    }

    /// Leaves this repository behind; its uploads abort.
    pub fn give_up(&mut self, error: Failure) {
        tracing::warn!(repository = self.repository.name, error = error.full_message(), "left behind");
        self.pending.clear();
        self.error = Some(error);
    }

    /// Begins an object.
    pub async fn begin(&mut self, key: &ObjectKey, expected_size: Option<u64>) -> Result<Box<dyn Upload>, Failure> {
        let options = PutOptions { storage_class: self.storage_class.clone(), expected_size, ..PutOptions::default() };
        Ok(self.repository.storage.upload(key, &options).await?)
    }

    /// Holds a sent object until the artifact is committed.
    pub(super) fn hold(&mut self, pending: Pending) {
        self.pending.push(pending);
    }

    /// Sends an object whose bytes are all there as they are, and holds it. A failure leaves this repository behind.
    pub(super) async fn hold_plain(&mut self, key: &ObjectKey, coding: Encoding, bytes: &Bytes, proof: &Complete) {
        if !self.is_going() {
            return;
        }
        let sent = async {
            let mut upload = self.begin(key, Some(bytes.len() as u64)).await?;
            for at in (0..bytes.len()).step_by(PIECE_BYTES) {
                upload.write(bytes.slice(at..bytes.len().min(at + PIECE_BYTES))).await?;
            }
            Ok::<_, Failure>(upload)
        };
        match sent.await {
            Ok(upload) => {
                let (size, digest) = (bytes.len() as u64, Digest::of(bytes));
                let record = ObjectRecord {
                    role: ObjectRole::Buckets,
                    key: key.clone(),
                    version: None,
                    content_size: size,
                    content_digest: digest,
                    stored_size: size,
                    stored_digest: digest,
                    encoding: vec![coding],
                    // Read by every next increment, so never in a class that has to be thawed.
                    storage_class: None,
                    sse: None,
                };
                self.hold(Pending { upload, proof: proof.clone(), record });
            }
            Err(error) => self.give_up(error),
        }
    }

    /// The class asked for, as the manifest records it.
    pub fn storage_class(&self) -> Option<String> {
        self.storage_class.clone().filter(|_| self.repository.storage.features().storage_classes)
    }

    /// Makes everything visible, manifest last. A failure leaves this repository behind.
    pub async fn commit(&mut self, name: &ArtifactName, draft: &Draft<'_>) {
        if self.is_going()
            && let Err(error) = self.try_commit(name, draft).await
        {
            self.give_up(error);
        }
    }

    async fn try_commit(&mut self, name: &ArtifactName, draft: &Draft<'_>) -> Result<(), Failure> {
        let (mut objects, mut unread) = (Vec::new(), Vec::new());
        for Pending { upload, proof, mut record } in std::mem::take(&mut self.pending) {
            let stored = upload.commit(proof, record.stored_digest, record.stored_size).await?;
            record.version = stored.version;
            if !stored.read_back {
                unread.push(record.clone());
            }
            objects.push(record);
            pass(FailPoint::DumpObjectCommitted)?;
        }
        let checksums = self.put_checksums(name, &objects).await?;
        unread.push(checksums.clone());
        objects.push(checksums);
        pass(FailPoint::DumpChecksumsPut)?;
        let level = read_back::read_back(&self.repository, &unread, &draft.setting.events).await?;
        draft.setting.require_going_on("commit the dump")?;
        draft.coordinator.require_alive().await?;
        let now = draft.setting.clock.now();
        let verification = Verification { level, at: now };
        let repository = self.repository.name.as_str();
        let manifest = |place| draft.manifest(repository, place, objects.clone(), verification, now);
        let committed = self.repository.commit(&name.manifest()?, now, manifest).await?;
        self.stored_bytes = committed.manifest.stored_size();
        Ok(())
    }

    /// The `.sha256` file that `sha256sum -c` reads.
    async fn put_checksums(&mut self, name: &ArtifactName, objects: &[ObjectRecord]) -> Result<ObjectRecord, Failure> {
        let key = name.object(ObjectRole::Checksums, &[])?;
        let lines = objects.iter().map(|object| format!("{}  {}\n", object.stored_digest, object.key.name()));
        let body = Bytes::from(lines.collect::<String>());
        let (size, digest) = (body.len() as u64, Digest::of(&body));
        let stored = self.repository.storage.put(&key, body, &PutOptions::default()).await?;
        Ok(ObjectRecord {
            role: ObjectRole::Checksums,
            key,
            version: stored.version,
            content_size: size,
            content_digest: digest,
            stored_size: size,
            stored_digest: digest,
            encoding: Vec::<Encoding>::new(),
            storage_class: None,
            sse: None,
        })
    }

    /// What became of it.
    pub fn outcome(&self) -> RepositoryOutcome {
        RepositoryOutcome {
            repository: self.repository.name.clone(),
            error: self.error.as_ref().map(Failure::full_message),
            stored_bytes: self.stored_bytes,
        }
    }
}

/// Errors with the first repository's failure when all of them were left behind.
pub fn require_one(targets: &mut [Target]) -> Result<(), Failure> {
    if targets.iter().any(Target::is_going) {
        return Ok(());
    }
    let mut failures =
        targets.iter_mut().filter_map(|target| target.error.take().map(|error| (&target.repository.name, error)));
    let Some((name, first)) = failures.next() else {
        return Err(Failure::new(FailureKind::Usage, "store a dump: no repository is configured")
            .hint("Add a [repository.NAME] with its url to dbagent.toml."));
    };
    let mut message = format!("store the dump in repository {name}: {}", first.full_message());
    for (name, other) in failures {
        message.push_str(&format!("; in {name}: {}", other.full_message()));
    }
    let failure = Failure::new(first.kind, message);
    Err(match first.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    })
}
