//! What a repository holds: every manifest, its signature checked, joined with what the log says of it.
//!
//! Listing shows only artifacts whose manifest is signed by a trusted key and stands in the log with this very digest.
//! Everything else becomes a finding, never an artifact.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::catalog::entry::Record;
use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::{Log, list_all};
use crate::catalog::names::{self, ArtifactName};
use crate::catalog::repository::Repository;
use crate::model::digest::Digest;
use crate::model::failure::with_causes;
use crate::model::id::ArtifactId;
use crate::model::key::ObjectKey;
use crate::model::manifest::{FORMAT, Manifest, Verification, VerificationLevel};
use crate::model::outcome::{Finding, Severity};

/// Manifests fetched at once.
const FETCHES_AT_ONCE: usize = 16;

/// One artifact in one repository.
#[derive(Clone, Debug)]
pub struct Artifact {
    /// Name of the repository.
    pub repository: String,
    /// Its name there.
    pub name: ArtifactName,
    /// Its manifest.
    pub manifest: Manifest,
    /// SHA-256 of the manifest's bytes.
    pub manifest_digest: Digest,
    /// Fingerprint of the key that signed the manifest; absent when unsigned ones were accepted.
    pub signed_by: Option<String>,
    /// The last check of its bytes; absent after damage was found.
    pub verified: Option<Verification>,
    /// What was found wrong with its bytes, if anything.
    pub damaged: Option<String>,
    /// Why it is kept whatever retention says, if it is.
    pub pinned: Option<String>,
}

/// Everything a repository holds.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    /// Artifacts, oldest first.
    pub artifacts: Vec<Artifact>,
    /// Commits in the log without manifest or tombstone: their runs died, or somebody deleted them.
    pub unfinished: Vec<Unfinished>,
    /// Manifests that are not taken for artifacts; a finding says why for each.
    pub refused: Vec<ObjectKey>,
    /// Manifests of buried artifacts that are still there: whoever buried them died, or somebody put them back.
    pub half_buried: Vec<ObjectKey>,
    /// What is wrong with the repository.
    pub findings: Vec<Finding>,
    /// Why the log cannot be believed to its end, if it cannot.
    pub broken_log: Option<String>,
}

/// A commit that took its number and has no manifest.
#[derive(Clone, Debug)]
pub struct Unfinished {
    /// The artifact.
    pub artifact: ArtifactId,
    /// Where its manifest would be.
    pub manifest: ObjectKey,
    /// When it took its number.
    pub recorded: DateTime<Utc>,
}

/// What to do with manifests that no trusted key signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsigned {
    /// Leave them out, as a finding.
    Refuse,
    /// Take them; a person typed that.
    Accept,
}

#[derive(Clone, Debug)]
struct Standing {
    artifact: ArtifactId,
    manifest_digest: Digest,
    signature_digest: Digest,
    recorded: DateTime<Utc>,
    verified: Option<Verification>,
    damaged: Option<String>,
    pinned: Option<String>,
    buried: bool,
}

impl Inventory {
    /// Reads what `repository` holds as of `now`.
    pub async fn read(repository: &Repository, unsigned: Unsigned, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        let mut log = Log::read(repository, now).await?;
        let early = standings(&log);
        let keys = manifest_keys(repository).await?;
        let read: Vec<_> = stream::iter(keys)
            .map(|key| async move { fetch(repository, key).await })
            .buffered(FETCHES_AT_ONCE)
            .try_collect()
            .await?;
        let read: Vec<Found> = read.into_iter().flatten().collect();
        if !agree(&early, &read) {
            // Artifacts come and go while this reads; the log is what says whether that was so.
            log = Log::read(repository, now).await?;
        }
        let mut inventory = Self { broken_log: log.broken.clone(), ..Self::default() };
        if let Some(reason) = &log.broken {
            inventory.findings.push(Finding::new(Severity::Critical, "catalog-broken", reason.clone()));
        }
        let mut standing = standings(&log);
        let gate = Gate { repository, unsigned, now };
        for found in read {
            let stands = standing.remove(&found.key);
            if stands.as_ref().is_some_and(|stands| stands.is_half_buried(&found)) {
                inventory.note_half_buried(repository, found.key);
                continue;
            }
            match gate.admit(&found, stands) {
                Ok(artifact) => inventory.artifacts.push(artifact),
                Err(error) => {
                    inventory.findings.push(refused(repository, &found.key, &error));
                    inventory.refused.push(found.key);
                }
            }
        }
        // What was committed after the listing has its manifest, unseen.
        standing.retain(|key, _| early.contains_key(key));
        inventory.note_unfinished(repository, standing);
        inventory.artifacts.sort_by(|a, b| (a.manifest.finished, &a.name).cmp(&(b.manifest.finished, &b.name)));
        Ok(inventory)
    }

    fn note_half_buried(&mut self, repository: &Repository, manifest: ObjectKey) {
        let message = format!(
            "{manifest} in repository {} was deleted and is still there: its deletion was cut off, or it has come back",
            repository.name
        );
        let finding = Finding::new(Severity::Warning, "deletion-unfinished", message);
        self.findings.push(finding.remedy("`dbagent expire` deletes it"));
        self.half_buried.push(manifest);
    }

    fn note_unfinished(&mut self, repository: &Repository, standing: BTreeMap<ObjectKey, Standing>) {
        for (manifest, stands) in standing.into_iter().filter(|(_, stands)| !stands.buried) {
            let message = format!(
                "{manifest} in repository {} was begun at {} and has no manifest: its run died, or the manifest was deleted",
                repository.name,
                stands.recorded.format("%Y-%m-%dT%H:%M:%SZ")
            );
            let finding = Finding::new(Severity::Warning, "manifest-missing", message)
                .remedy("compare with `dbagent job history`; `dbagent expire` clears it away after the grace time");
            self.findings.push(finding);
            self.unfinished.push(Unfinished { artifact: stands.artifact, manifest, recorded: stands.recorded });
        }
    }
}

/// Whether every manifest found stands in the log, and everything that stands there was found.
fn agree(standing: &BTreeMap<ObjectKey, Standing>, read: &[Found]) -> bool {
    let live = standing.values().filter(|stands| !stands.buried).count();
    live == read.len()
        && read.iter().all(|found| {
            let stands = standing.get(&found.key);
            stands.is_some_and(|stands| !stands.buried && stands.manifest_digest == Digest::of(&found.manifest))
        })
}

fn standings(log: &Log) -> BTreeMap<ObjectKey, Standing> {
    let mut by_key = BTreeMap::new();
    let mut key_of = BTreeMap::new();
    for entry in &log.entries {
        if let Record::Commit { artifact, manifest, manifest_digest, signature_digest } = &entry.record {
            key_of.insert(*artifact, manifest.clone());
            let standing = Standing {
                artifact: *artifact,
                manifest_digest: *manifest_digest,
                signature_digest: *signature_digest,
                recorded: entry.recorded,
                verified: None,
                damaged: None,
                pinned: None,
                buried: false,
            };
            by_key.insert(manifest.clone(), standing);
        }
        let subject = subject(&entry.record).and_then(|artifact| key_of.get(&artifact));
        if let Some(standing) = subject.and_then(|key| by_key.get_mut(key)) {
            standing.apply(&entry.record);
        }
    }
    by_key
}

fn subject(record: &Record) -> Option<ArtifactId> {
    match record {
        Record::Term => None,
        Record::Commit { artifact, .. }
        | Record::Verified { artifact, .. }
        | Record::Damaged { artifact, .. }
        | Record::Pin { artifact, .. }
        | Record::Unpin { artifact }
        | Record::Tombstone { artifact, .. } => Some(*artifact),
    }
}

impl Standing {
    fn apply(&mut self, record: &Record) {
        match record {
            Record::Verified { verification, .. } => {
                self.verified = Some(*verification);
                // Only reading every byte tells that wrong bytes are right again; a store's word does not.
                if verification.level == VerificationLevel::ReadBack {
                    self.damaged = None;
                }
            }
            Record::Damaged { reason, .. } => self.damaged = Some(reason.clone()),
            Record::Pin { reason, .. } => self.pinned = Some(reason.clone()),
            Record::Unpin { .. } => self.pinned = None,
            Record::Tombstone { .. } => self.buried = true,
            Record::Term | Record::Commit { .. } => {}
        }
    }
}

async fn manifest_keys(repository: &Repository) -> Result<Vec<ObjectKey>, CatalogError> {
    let mut keys = Vec::new();
    for folder in repository.storage.folders().await? {
        if names::may_hold_artifacts(&folder) {
            keys.extend(list_all(repository.storage.as_ref(), &format!("{folder}/")).await?);
        }
    }
    keys.retain(names::is_manifest);
    Ok(keys)
}

/// A manifest as it lies there, with its signature.
struct Found {
    key: ObjectKey,
    manifest: Bytes,
    signature: Bytes,
}

/// A manifest and its signature; nothing when it was deleted since it was listed.
async fn fetch(repository: &Repository, key: ObjectKey) -> Result<Option<Found>, CatalogError> {
    let manifest = match repository.read(&key).await {
        Err(error) if error.is_missing() => return Ok(None),
        other => other?,
    };
    let signature = match repository.read(&key.with_suffix(".sig")?).await {
        Err(error) if error.is_missing() => Bytes::new(),
        other => other?,
    };
    Ok(Some(Found { key, manifest, signature }))
}

/// Decides which manifests are artifacts.
struct Gate<'a> {
    repository: &'a Repository,
    unsigned: Unsigned,
    now: DateTime<Utc>,
}

impl Gate<'_> {
    fn admit(&self, found: &Found, stands: Option<Standing>) -> Result<Artifact, CatalogError> {
        let signed = self.repository.verifier.verify(&found.manifest, &found.signature, self.now);
        let signed_by = match (signed, self.unsigned) {
            (Ok(fingerprint), _) => Some(fingerprint),
            (Err(_), Unsigned::Accept) => None,
            (Err(error), Unsigned::Refuse) => return Err(error),
        };
        let manifest = parse(&found.manifest)?;
        let digest = Digest::of(&found.manifest);
        let name = own_name(&found.key, &manifest)?;
        let stands = self.place(found, &manifest, digest, stands)?;
        Ok(artifact(self.repository, name, manifest, digest, signed_by, stands))
    }

    /// Holds the manifest against what the log says was committed under its name.
    fn place(
        &self,
        found: &Found,
        manifest: &Manifest,
        digest: Digest,
        stands: Option<Standing>,
    ) -> Result<Option<Standing>, CatalogError> {
        let key = &found.key;
        let strict = self.unsigned == Unsigned::Refuse;
        let fault = match &stands {
            Some(stands) if stands.buried => "was deleted and has come back",
            Some(stands) if strict && !stands.is_of(manifest, digest, &found.signature) => {
                "is not the manifest that was committed under this name"
            }
            None if strict => "does not stand in the catalog's log",
            _ => return Ok(stands),
        };
        Err(CatalogError::new(CatalogErrorKind::RolledBack, format!("{key} {fault}")))
    }
}

/// The artifact's name, if the manifest and every object it lists bear it.
fn own_name(key: &ObjectKey, manifest: &Manifest) -> Result<ArtifactName, CatalogError> {
    let name = ArtifactName::of_manifest(key);
    match name {
        Some(name)
            if manifest.objects.iter().all(|each| ArtifactName::of_object(&each.key).as_ref() == Some(&name)) =>
        {
            Ok(name)
        }
        _ => {
            let message = format!("the manifest {key} lists objects of another artifact");
            Err(CatalogError::new(CatalogErrorKind::RolledBack, message))
        }
    }
}

fn artifact(
    repository: &Repository,
    name: ArtifactName,
    manifest: Manifest,
    manifest_digest: Digest,
    signed_by: Option<String>,
    stands: Option<Standing>,
) -> Artifact {
    let damaged = stands.as_ref().and_then(|stands| stands.damaged.clone()).or_else(|| taken_damaged(&manifest));
    let checked = stands.as_ref().and_then(|stands| stands.verified).unwrap_or(manifest.verification);
    Artifact {
        repository: repository.name.clone(),
        name,
        verified: damaged.is_none().then_some(checked),
        damaged,
        pinned: stands.and_then(|stands| stands.pinned),
        manifest,
        manifest_digest,
        signed_by,
    }
}

/// Pages that were damaged in the cluster itself: whole bytes of a broken cluster are no good backup.
fn taken_damaged(manifest: &Manifest) -> Option<String> {
    let damaged = &manifest.base.as_ref()?.damaged;
    let named = damaged.first.first().map(|page| format!(", the first in {} block {}", page.path, page.block));
    (!damaged.is_none()).then(|| {
        format!("{} pages of the cluster were damaged when it was taken{}", damaged.count, named.unwrap_or_default())
    })
}

impl Standing {
    /// Whether `found` is the very manifest whose artifact was buried.
    fn is_half_buried(&self, found: &Found) -> bool {
        self.buried && self.manifest_digest == Digest::of(&found.manifest)
    }

    fn is_of(&self, manifest: &Manifest, digest: Digest, signature: &[u8]) -> bool {
        self.artifact == manifest.id && self.manifest_digest == digest && self.signature_digest == Digest::of(signature)
    }
}

/// Reads a manifest's bytes. An unknown format number is refused before anything else is believed.
pub fn parse(bytes: &[u8]) -> Result<Manifest, CatalogError> {
    let malformed =
        |error: serde_json::Error| CatalogError::new(CatalogErrorKind::Malformed, "read a manifest").because(error);
    let document: serde_json::Value = serde_json::from_slice(bytes).map_err(malformed)?;
    match document.get("format").and_then(serde_json::Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => serde_json::from_value(document).map_err(malformed),
        Some(format) => {
            let version = document.get("agent_version").and_then(serde_json::Value::as_str).unwrap_or("unknown");
            let message = format!(
                "read a manifest of format {format}: this version reads {FORMAT}; dbagent {version} or later reads it"
            );
            Err(CatalogError::new(CatalogErrorKind::NewerFormat, message))
        }
        None => Err(CatalogError::new(CatalogErrorKind::Malformed, "read a manifest: it has no format number")),
    }
}

fn refused(repository: &Repository, key: &ObjectKey, error: &CatalogError) -> Finding {
    let message =
        format!("{key} in repository {} is not taken for an artifact: {}", repository.name, with_causes(error));
    Finding::new(Severity::Critical, "manifest-refused", message)
        .remedy("find out who wrote it; add the signer's certificate to [verification] if it is one of yours")
}
