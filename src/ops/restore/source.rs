//! Where a restore reads from: the backup that was meant, in the first repository whose copy is whole.
//!
//! An increment is restored with everything it builds upon, so its copy is whole only with its whole chain.

use std::io::Read as _;

use crate::catalog::{Artifact, Inventory, Repository, Selector, Unsigned, chain};
use crate::host::Source;
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::lineage::{Lineage, inexact, lineages};
use crate::model::manifest::{Manifest, ObjectRecord, ObjectRole};
use crate::model::table::{QualifiedTable, TableName};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::restore::{Doors, Wanted, coverage};
use crate::pipeline::fetch;
use crate::steps::{read_back, thaw, unlock};

/// One verified copy of the backup that was meant.
#[derive(Debug)]
pub struct Choice {
    /// The artifact.
    pub artifact: Artifact,
    /// The repository whose copy is read.
    pub repository: Repository,
    /// The full dump, then every increment up to the artifact itself.
    chain: Vec<Artifact>,
    /// The leases on them, where they could be taken.
    leases: Vec<ObjectKey>,
}

/// Finds what `wanted` means, verifies a copy whole, and leases it unless it is only to be planned with.
pub async fn choose(wanted: &Wanted, doors: &Doors, setting: &Setting) -> Result<Choice, Failure> {
    let artifacts = candidates(wanted, doors, setting).await?;
    let fitting: Vec<Artifact> =
        artifacts.iter().filter(|artifact| fits(wanted, &artifact.manifest)).cloned().collect();
    if let (true, false, Some(limits)) = (fitting.is_empty(), artifacts.is_empty(), limits(wanted)) {
        let message = format!("find a backup {limits}: of the {} that are there, none is", artifacts.len());
        return Err(Failure::new(FailureKind::NothingMatches, message)
            .hint("`dbagent backup list` shows what there is, `dbagent backup show` the tables of one."));
    }
    let fitting = match (&wanted.table, &wanted.selector) {
        (None, Selector::Latest | Selector::Oldest) => coverage::whole(fitting)?,
        _ => fitting,
    };
    let copies = wanted.selector.choose(&fitting)?;
    let mut failures = Vec::new();
    for artifact in copies {
        let Some(repository) = doors.repositories.iter().find(|each| each.name == artifact.repository) else {
            continue;
        };
        match verify_chain(artifact, &artifacts, repository, wanted.plan_only, setting).await {
            Ok(choice) => return Ok(choice),
            Err(error) if setting.stop.is_cancelled() => return Err(error),
            Err(error) => {
                let place = repository.storage.place();
                setting.events.note(format!("cannot use the copy in {place}: {}", error.full_message()));
                failures.push(error);
            }
        }
    }
    Err(failures
        .pop()
        .unwrap_or_else(|| Failure::new(FailureKind::NothingMatches, "find a repository that holds this backup")))
}

/// The chain of `artifact`, whole, leased unless it is only to be planned with, and every stored byte of it verified.
async fn verify_chain(
    artifact: &Artifact,
    artifacts: &[Artifact],
    repository: &Repository,
    plan_only: bool,
    setting: &Setting,
) -> Result<Choice, Failure> {
    let chain: Vec<Artifact> = chain::line(artifact, artifacts)?.into_iter().cloned().collect();
    let manifests: Vec<&Manifest> = chain.iter().map(|link| &link.manifest).collect();
    lineages(&manifests).map_err(|broken| {
        Failure::new(FailureKind::Integrity, broken.to_string()).hint("Restore an earlier backup with --until.")
    })?;
    let mut leases = Vec::new();
    let verified = async {
        for link in &chain {
            if !plan_only {
                leases.extend(lease(link, repository, setting).await);
                thaw::thaw(repository, link, setting.clock.as_ref(), &setting.events, &setting.stop).await?;
            }
            // To be told to stop while it thaws is another matter: the store goes on.
            setting.unless_stopped("verify the backup", verify(link, repository, setting)).await?;
        }
        Ok(())
    };
    let verified: Result<(), Failure> = verified.await;
    let choice = Choice { artifact: artifact.clone(), repository: repository.clone(), chain, leases };
    match verified {
        Ok(()) => Ok(choice),
        Err(failure) => {
            choice.release(setting).await;
            Err(failure)
        }
    }
}

/// Every artifact, oldest first. A repository that cannot be read does not hide the others.
async fn candidates(wanted: &Wanted, doors: &Doors, setting: &Setting) -> Result<Vec<Artifact>, Failure> {
    let unsigned = if wanted.accept_unsigned { Unsigned::Accept } else { Unsigned::Refuse };
    let (mut artifacts, mut failures) = (Vec::new(), Vec::new());
    for repository in &doors.repositories {
        match Inventory::read(repository, unsigned, setting.clock.now()).await {
            Ok(inventory) => {
                if let (Some(reason), Unsigned::Refuse) = (&inventory.broken_log, unsigned) {
                    failures.push(rolled_back(repository, reason));
                    continue;
                }
                artifacts.extend(inventory.artifacts);
            }
            Err(error) => failures.push(error.into()),
        }
    }
    for failure in &failures {
        setting.events.note(format!("left out: {}", failure.full_message()));
    }
    match (artifacts.is_empty(), failures.pop()) {
        (true, Some(failure)) => Err(failure),
        _ => Ok(artifacts),
    }
}

fn rolled_back(repository: &Repository, reason: &str) -> Failure {
    Failure::new(FailureKind::Integrity, format!("trust repository {}: {reason}", repository.name))
        .hint("Restore from another repository with --repository, or add --accept-unsigned if you know why.")
}

/// What a backup must be, in words; nothing when any will do.
fn limits(wanted: &Wanted) -> Option<String> {
    let table = wanted.table.as_ref().map(|table| format!("with the table {table}"));
    let database = wanted.database.as_ref().map(|database| format!("of the database {database}"));
    let until = wanted.until.map(|until| format!("of {} or before", until.format("%Y-%m-%dT%H:%M:%SZ")));
    let limits: Vec<String> = [database, table, until].into_iter().flatten().collect();
    (!limits.is_empty()).then(|| limits.join(" "))
}

fn fits(wanted: &Wanted, manifest: &Manifest) -> bool {
    matches!(manifest.verb, Verb::Dump | Verb::Increment)
        && wanted.until.is_none_or(|until| manifest.as_of() <= until)
        && wanted.database.as_ref().is_none_or(|database| manifest.source.database == *database)
        && wanted.table.as_ref().is_none_or(|table| covers(manifest, table))
}

fn covers(manifest: &Manifest, table: &TableName) -> bool {
    manifest.tables.iter().any(|record| {
        record.table.name == table.name && table.schema.as_ref().is_none_or(|schema| record.table.schema == *schema)
    })
}

async fn lease(artifact: &Artifact, repository: &Repository, setting: &Setting) -> Option<ObjectKey> {
    match repository.lease(artifact.manifest.id, setting.run, setting.clock.now()).await {
        Ok(lease) => Some(lease),
        Err(error) => {
            setting
                .events
                .note(format!("no lease on the backup, so that an expiry could delete it meanwhile: {error}"));
            None
        }
    }
}

async fn verify(artifact: &Artifact, repository: &Repository, setting: &Setting) -> Result<(), Failure> {
    if let Some(damage) = &artifact.damaged {
        let message = format!("use {} in repository {}: {damage}", artifact.name, repository.name);
        return Err(Failure::new(FailureKind::Integrity, message));
    }
    setting.events.step(format!("verifying {} in {}", artifact.name, repository.storage.place()));
    read_back::read_back(repository, &artifact.manifest.objects, &setting.events).await?;
    Ok(())
}

impl Choice {
    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.artifact.manifest
    }

    /// The full dump that everything builds upon.
    pub fn full(&self) -> &Artifact {
        self.chain.first().unwrap_or(&self.artifact)
    }

    /// The increments upon it with their places in the chain, oldest first.
    pub fn increments(&self) -> impl Iterator<Item = (usize, &Artifact)> {
        self.chain.iter().enumerate().skip(1)
    }

    /// Where the rows of each relation begin.
    pub(super) fn lineages(&self) -> Result<Vec<Lineage>, Failure> {
        let manifests: Vec<&Manifest> = self.chain.iter().map(|link| &link.manifest).collect();
        lineages(&manifests).map_err(|broken| Failure::new(FailureKind::Integrity, broken.to_string()))
    }

    /// How many rows a restore brings, and the tables of which that is not known exactly: their newest increments did not
    /// count them, and they are taken as they were counted last.
    pub fn rows(&self) -> Result<(u64, Vec<QualifiedTable>), Failure> {
        let lineages = self.lineages()?;
        Ok((lineages.iter().map(|lineage| lineage.rows).sum(), inexact(&lineages)))
    }

    /// Errors unless the keys at hand open all that a restore reads, as the restore itself would.
    pub async fn require_openable(&self, doors: &Doors, setting: &Setting) -> Result<(), Failure> {
        unlock::require_openable(&self.repository, &self.chain, doors.keys.as_ref(), &setting.events).await
    }

    /// The decrypted, decompressed content of the object with `role` of a link of the chain; its end is good only if every
    /// digest agrees.
    pub(super) async fn open(
        &self,
        link: &Artifact,
        role: ObjectRole,
        doors: &Doors,
    ) -> Result<Box<dyn Source>, Failure> {
        let object = object(link, role)?;
        let download = self.repository.storage.get(&object.key, object.version.as_deref(), None).await?;
        Ok(fetch::open(download, object, doors.keys.as_ref()).await?)
    }

    /// The whole content of a small object of the artifact itself.
    pub(super) async fn read(&self, role: ObjectRole, doors: &Doors) -> Result<Vec<u8>, Failure> {
        let mut source = self.open(&self.artifact, role, doors).await?;
        let broken = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(FailureKind::Integrity, "read the schema of the backup").because(error)
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::new();
            source.read_to_end(&mut bytes).map_err(|error| broken(error.into()))?;
            source.finish().map_err(|error| broken(error.into()))?;
            Ok(bytes)
        });
        read.await.map_err(|error| Failure::new(FailureKind::Failed, "read the schema of the backup").because(error))?
    }

    /// Gives the leases back. What is restored stays so when that fails: a lease ends by itself.
    pub(super) async fn release(&self, setting: &Setting) {
        for lease in &self.leases {
            if let Err(error) = self.repository.end_lease(lease).await {
                setting.events.note(format!("the lease {lease} stays until it ends by itself: {error}"));
            }
        }
    }
}

fn object(link: &Artifact, role: ObjectRole) -> Result<&ObjectRecord, Failure> {
    link.manifest.object(role).ok_or_else(|| {
        Failure::new(FailureKind::Integrity, format!("use {}: it has no object of the kind {role:?}", link.name))
    })
}
