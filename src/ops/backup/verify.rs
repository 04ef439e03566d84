//! Reads stored bytes back and tells the repository what was found.

use std::io::Read as _;

use crate::catalog::{Artifact, Record, Repository, chain};
use crate::model::drill::{Drill, FORMAT};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lineage::lineages;
use crate::model::manifest::{Encoding, ObjectRecord, Verification, VerificationLevel};
use crate::ops::Setting;
use crate::pipeline::fetch;
use crate::pipeline::openpgp::DecryptionKeys;
use crate::steps::read_back;

/// What verifying one copy of one artifact came to.
#[derive(Debug)]
pub struct Verified {
    /// The copy.
    pub artifact: Artifact,
    /// How well it is known to be whole, or what is wrong with it.
    pub result: Result<VerificationLevel, Failure>,
    /// Why the result could not be written into the repository; absent when it was.
    pub unrecorded: Option<Failure>,
    /// Full fingerprints of the recipients whose keys open it, where its contents were decrypted.
    pub drilled: Vec<String>,
}

/// Verifies one copy; with `keys`, contents too, which is a decrypt drill of every recipient whose key is among them. The
/// result is recorded where this host may write to the repository.
///
/// An increment is good only with the whole chain below it, looked for among `holdings`; a broken chain is no damage of
/// its own bytes and is told, not recorded.
pub async fn verify(
    repository: &Repository,
    artifact: &Artifact,
    holdings: &[Artifact],
    keys: Option<&DecryptionKeys>,
    setting: &Setting,
) -> Verified {
    setting.events.step(format!("verifying {} in {}", artifact.name, repository.storage.place()));
    if let Err(failure) = chain::line(artifact, holdings).and_then(follow) {
        return Verified { artifact: artifact.clone(), result: Err(failure), unrecorded: None, drilled: Vec::new() };
    }
    let checked = check(repository, artifact, keys, setting).await;
    let (result, drilled) = match checked {
        Ok((level, drilled)) => (Ok(level), drilled),
        Err(failure) => (Err(failure), Vec::new()),
    };
    let recorded = match repository.signer {
        Some(_) => match record(repository, artifact, &result, setting).await {
            Ok(()) => record_drills(repository, artifact, &drilled, setting).await,
            unrecorded => unrecorded,
        },
        None => Err(Failure::new(FailureKind::Authentication, "record the result: no signing key is configured here")
            .hint("Give this host a signing key of its own, and its certificate to the agent's [verification].")),
    };
    Verified { artifact: artifact.clone(), result, unrecorded: recorded.err(), drilled }
}

async fn record_drills(
    repository: &Repository,
    artifact: &Artifact,
    recipients: &[String],
    setting: &Setting,
) -> Result<(), Failure> {
    for recipient in recipients {
        let (recipient, artifact, drilled) = (recipient.clone(), artifact.manifest.id, setting.clock.now());
        repository.put_drill(&Drill { format: FORMAT, recipient, artifact, drilled }).await?;
    }
    Ok(())
}

/// Whether the rows of every relation can be followed through the chain.
fn follow(line: Vec<&Artifact>) -> Result<(), Failure> {
    let manifests: Vec<_> = line.iter().map(|link| &link.manifest).collect();
    lineages(&manifests).map(|_| ()).map_err(|error| Failure::new(FailureKind::Integrity, error.to_string()))
}

async fn check(
    repository: &Repository,
    artifact: &Artifact,
    keys: Option<&DecryptionKeys>,
    setting: &Setting,
) -> Result<(VerificationLevel, Vec<String>), Failure> {
    let objects = &artifact.manifest.objects;
    let level = read_back::read_back(repository, objects, &setting.events).await?;
    let mut drilled = Vec::new();
    if let Some(keys) = keys {
        for object in objects {
            setting.require_going_on("go on verifying")?;
            read_content(repository, object, keys).await?;
        }
        for recipient in &artifact.manifest.recipients {
            if let Some(key) = keys.of(recipient)
                && opens(repository, objects, &key).await?
            {
                drilled.push(recipient.clone());
            }
        }
    }
    Ok((level, drilled))
}

/// Whether `key` alone opens the first object that is encrypted. What is inside is the same for every recipient.
async fn opens(repository: &Repository, objects: &[ObjectRecord], key: &DecryptionKeys) -> Result<bool, Failure> {
    let encrypted = |object: &&ObjectRecord| object.encoding.contains(&Encoding::OpenPgp);
    let Some(object) = objects.iter().find(encrypted) else { return Ok(false) };
    let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    fetch::open(download, object, Some(key)).await?;
    Ok(true)
}

/// Decrypts and decompresses to nowhere; the source itself compares the content's digest at its end.
async fn read_content(repository: &Repository, object: &ObjectRecord, keys: &DecryptionKeys) -> Result<(), Failure> {
    let download = repository.storage.get(&object.key, object.version.as_deref(), None).await?;
    let mut source = fetch::open(download, object, Some(keys)).await?;
    let key = object.key.clone();
    let doing = move || format!("read the content of {key}");
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 1 << 20];
        while source.read(&mut buffer).map_err(|error| fetch::failure(error, doing()))? > 0 {}
        source.finish().map_err(|error| Failure::new(FailureKind::Integrity, doing()).because(error))
    });
    read.await.map_err(|error| Failure::new(FailureKind::Failed, "read the content").because(error))??;
    Ok(())
}

async fn record(
    repository: &Repository,
    artifact: &Artifact,
    result: &Result<VerificationLevel, Failure>,
    setting: &Setting,
) -> Result<(), Failure> {
    let now = setting.clock.now();
    if matches!(result, Ok(VerificationLevel::StoreChecksum))
        && !read_back::store_vouches(repository, &artifact.manifest.objects).await?
    {
        let message = "record the result: of archived objects the store tells only the sizes";
        return Err(Failure::new(FailureKind::Failed, message));
    }
    let artifact = artifact.manifest.id;
    let record = match result {
        Ok(level) => Record::Verified { artifact, verification: Verification { level: *level, at: now } },
        Err(failure) if failure.kind == FailureKind::Integrity || failure.kind == FailureKind::NothingMatches => {
            Record::Damaged { artifact, reason: failure.full_message() }
        }
        Err(_) => return Ok(()),
    };
    Ok(repository.record(record, now).await?)
}
